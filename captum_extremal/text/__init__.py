"""The fewest words of a text that are enough for a language model's output.

It is :class:`~captum_extremal.LayerExtremalPerturbation` on the embedding of the tokens, with the words as groups.
"""

from captum_extremal.text.explainer import TokenExplainer as TokenExplainer
from captum_extremal.text.explanation import TextExplanation as TextExplanation
