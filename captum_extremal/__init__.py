"""Extremal perturbations for Captum: which smallest part of an input is enough for a model's output.

The public names stand in ``__init__.pyi``. They are imported when they are first used, so that the command line can
print its help without PyTorch.

Data flows in one direction: a module imports only from those before it in this list.

Order of imports:
    _version, _captum, _checks, _describe, _display, _replace, _jsonl, _memory, _autograd, _reach, hooks, _state,
    masks, perturbations, outputs, first_run, objective, batch_parts, objectives, search, explorer, results, layers,
    arguments, areas, settings, session, perturbed, robustness, inversion, attr, text, class_rows, classes, metrics,
    datasets, evaluation, visualization, cli
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
