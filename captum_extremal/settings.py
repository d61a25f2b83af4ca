"""The settings of a search for extremal masks: the keyword arguments that all extremal attributions share.

Every public method takes them as ``**settings``. They are written, documented and checked here once;
:func:`documents` shows them in the signature and the help of the methods. A bad setting raises TypeError or ValueError.

Shapes: N images, A areas, R masks per image at a time, K channels.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from torch import Tensor

from captum_extremal._captum import BaselineType
from captum_extremal._checks import check_callable, check_choice, check_count
from captum_extremal._state import warn_caller
from captum_extremal.areas import AREAS, OPTIMAL, Areas, Sought, as_fractions, check_areas
from captum_extremal.masks import (
    ChannelMask,
    Family,
    GroupMask,
    Layout,
    MaskFamily,
    SmoothMask,
    SpaceTimeMask,
    check_axes,
)
from captum_extremal.perturbations import BlurPyramid, FadePyramid, Perturbation, SamplePerturbation
from captum_extremal.results import ScoreThreshold, check_threshold
from captum_extremal.search import Game, PathSolver, PenaltySolver, Solver, as_game

Callback = Callable[[int, Tensor, Tensor], None]
_Method = TypeVar("_Method", bound=Callable[..., Any])
_Settings = TypeVar("_Settings", bound="SearchSettings")

_PERTURBATIONS: dict[str, Perturbation] = {"blur": BlurPyramid(), "fade": FadePyramid()}
_SOLVERS: dict[str, Solver] = {"path": PathSolver(), "penalty": PenaltySolver()}
_UNIT_SOLVERS: dict[str, Solver] = {"path": PathSolver(), "penalty": PenaltySolver.channels()}  # which do not flip
_FAMILIES: dict[str, MaskFamily] = {"channels": ChannelMask(), "spatial": SmoothMask()}


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What both attributions share.

    Args:
        game: "preserve", "delete", "hybrid", or a :class:`~captum_extremal.Game` (section 3.2).
        solver: "path", "penalty" (the paper's, many times slower), or an object that carries its own settings.
        score_threshold: Phi_0 of equations 3 and 10, in units of the game's value: None for its value at the mask that
            keeps everything, a number, one number per image (N,), or a callable ``(clean, perturbed) -> (N,)`` of the
            scores of the unmasked and of the fully perturbed inputs (or activation).
        perturbations_per_eval: how many perturbed copies of each image go through the model at once; None for all
            (one for each of the path's searches, one per area for "penalty"; twice as many for "hybrid", M times as
            many for :class:`~captum_extremal.SamplePerturbation`; 32 while the smallest set of groups is sought, one
            image after the other), as far as there is room: on CUDA as many as the free memory holds, and after an
            out-of-memory error half as many, down to a part of the images. ``settings["examples_at_once"]`` of the
            result is then the most examples that had room. On a CPU, a search sends inputs of 3 x 224 x 224 values
            and more through the model one after the other, so that an image has the same masks alone and in a batch
            (of the default family); an additional argument that cannot be cut by image prevents it. A number is kept,
            and changes the memory, and the result by rounding alone, which a search in float32 can amplify.
        explanations: how many answers to seek, each by a search of its own, as long as the first. What the masks of a*
            of the earlier ones keep counts nothing in it. They are in
            :attr:`~captum_extremal.ExtremalMasks.explanations` of ``extremal_masks``; ``attribute`` returns the first,
            and seeks no more.
        callback: called after each step with its number, the areas (N, R) and the game's values there (N, R): the best
            of the masks of one area, NaN for images that are finished. The path goes from large areas to small ones,
            then each area is refined, and a* is sought; the penalty's steps are of all areas at once.
            ``settings["steps"]`` of the result counts the calls.
        show_progress: draw a progress bar, whose total is an upper bound.
    """

    areas: Areas | None = None
    game: str | Game = "preserve"
    solver: str | Solver = "path"
    score_threshold: ScoreThreshold = None
    explanations: int = 1
    perturbations_per_eval: int | None = None
    callback: Callback | None = None
    show_progress: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.areas, str):
            if self.areas != OPTIMAL:
                raise ValueError(f"areas must be numbers, None or {OPTIMAL!r}, got {self.areas!r}")
        elif self.areas is not None:
            check_areas(self.areas, self._over_units)
        as_game(self.game)
        if self.chosen_solver().flips and self._over_units:
            raise ValueError(
                "solver must not flip a layer's activation or groups of features, "
                f"got {self.solver!r}: use PenaltySolver.channels()"
            )
        check_count("explanations", self.explanations)
        if self.perturbations_per_eval is not None:
            check_count("perturbations_per_eval", self.perturbations_per_eval)
        if self.callback is not None:
            check_callable("callback", self.callback, "step", "areas", "values")

    @property
    def _over_units(self) -> bool:
        """Whether masks are over channels or groups, of which integer areas are numbers."""
        return False

    @classmethod
    def of(cls: type[_Settings], given: Mapping[str, Any], method: Callable[..., Any]) -> _Settings:
        """The settings that a method was given."""
        for name in given.keys() - {field.name for field in fields(cls)}:
            nearest = get_close_matches(name, inspect.signature(method).parameters, 1)
            hint = f": did you mean {nearest[0]!r}?" if nearest else ""
            if name in inspect.signature(PathSolver).parameters:
                hint = f": it belongs to the solver, as in solver=PathSolver({name}=...)"
            raise TypeError(f"{method.__name__}() got an unexpected keyword argument {name!r}{hint}")
        settings = cls(**given)
        if isinstance(settings.areas, str) and method.__name__ == "attribute":
            raise ValueError(f"areas must be numbers, or None for the default of attribute, got {settings.areas!r}")
        return replace(settings, explanations=1) if method.__name__ == "attribute" else settings

    def check_for(self, images: int) -> None:
        """Raise TypeError or ValueError where a setting does not fit so many images."""
        check_threshold(self.score_threshold, images)

    def chosen_solver(self) -> Solver:
        """The solver."""
        if isinstance(self.solver, str):
            solvers = _UNIT_SOLVERS if self._over_units else _SOLVERS
            check_choice("solver", self.solver, solvers)
            return solvers[self.solver]
        if not isinstance(self.solver, Solver) or isinstance(self.solver, type):
            raise TypeError(f"solver must be a name or an object with plan and flips, got {self.solver!r}")
        return self.solver

    def sought(self, layouts: Sequence[Layout], family: Family, *, reduce: str | None = None) -> Sought:
        """Which areas are swept, and whether a* is sought beyond them.

        Args:
            layouts: of the masks of each tensor.
            family: of all masks.
            reduce: what ``attribute`` makes of them: "extremal" needs a* alone, the others a sweep alone. None for
                ``extremal_masks``, which returns both.
        """
        alone = isinstance(self.areas, str)
        if self.areas is not None and not alone:
            return Sought(as_fractions(check_areas(self.areas, self._over_units), layouts, family), beyond=False)
        smallest = max(family.smallest_area(layout.shape) for layout in layouts)
        default = as_fractions(self._default_areas(layouts, smallest), layouts, family)
        if alone or reduce == "extremal":
            return Sought((), beyond=True, instead=default)
        return Sought(default, beyond=reduce is None)

    def _default_areas(self, layouts: Sequence[Layout], smallest: float) -> tuple[int, ...] | tuple[float, ...]:
        """Section 4's, those that are not too small for a mask."""
        return tuple(area for area in AREAS if area >= smallest)


@dataclass(frozen=True, kw_only=True)
class InputSearchSettings(SearchSettings):
    """What is set for masks over inputs.

    Args:
        areas: strictly increasing fractions of the input, in (0, 1], or for groups all integers, numbers of groups (of
            elements with ``weights="size"``); a* is then the smallest of them that is enough.
            None for a* alone in ``attribute`` with reduce="extremal", and for the paper's 0.05, 0.1, 0.2, 0.4, 0.6, 0.8
            with the other reductions. ``extremal_masks`` takes None for the paper's areas and an a* between them, and
            "optimal" for a* alone, without masks of areas (A = 0).
        perturbation: "blur", "fade", :class:`~captum_extremal.SamplePerturbation`, or another object with
            ``bind(x, baseline)`` (section 3.4), which is given (N, C, *S) whatever ``channel_dim`` is. None for the
            blur, which is along the axes that the masks vary along, or the fade for groups.
        mask: the family of masks; None for :class:`~captum_extremal.SmoothMask` (section 3.5), which for videos has
            settings for time and space apart, as has :class:`~captum_extremal.SpaceTimeMask`; or, where there is a
            ``feature_mask`` or no position, for :class:`~captum_extremal.GroupMask`.
        channel_dim: the axis of the channels, counted with N, which no mask covers: None for 1, -1 for (N, T, F),
            (N, L, D) and (N, H, W, C). All other axes but the first are masked, and are the S of the result. Groups
            cover any axis, and take None.
    """

    perturbation: str | Perturbation | None = None
    mask: MaskFamily | GroupMask | None = None
    channel_dim: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.family()
        self.chosen_perturbation()
        check_axes(self.channel_dim)
        if self._over_units and self.channel_dim is not None:
            raise ValueError(f"channel_dim must be None for masks over groups, got {self.channel_dim}")

    @property
    def _over_units(self) -> bool:
        return isinstance(self.mask, GroupMask)

    def family(self) -> MaskFamily | GroupMask:
        """The family of the masks."""
        return SmoothMask() if self.mask is None else as_family(self.mask)

    def chosen_perturbation(self) -> Perturbation:
        """The perturbation. The default blur leaves alone what the masks are constant along."""
        default = "fade" if self._over_units else "blur"
        chosen = default if self.perturbation is None else self.perturbation
        if chosen == "blur" and isinstance(self.mask, (SmoothMask, SpaceTimeMask)):
            return BlurPyramid(hold=self.mask.hold)
        return as_perturbation(chosen)

    def _default_areas(self, layouts: Sequence[Layout], smallest: float) -> tuple[int, ...] | tuple[float, ...]:
        """Section 4's, or those of the groups."""
        if not self._over_units:
            return super()._default_areas(layouts, smallest)
        return _not_below(layouts[0].default_areas, smallest)


@dataclass(frozen=True, kw_only=True)
class LayerSearchSettings(SearchSettings):
    """What is set for masks over a layer.

    Args:
        areas: strictly increasing, all integers, numbers of channels or groups (of positions for masks over them), or
            all floats, fractions in (0, 1]: 1 is one channel, 1.0 all of them. a* is the smallest of them that is
            enough. None for a* alone in ``attribute``. ``extremal_masks`` takes None for the paper's areas and an a*
            between them, and "optimal" for a* alone (A = 0). The paper's are 1, 5, 10, 20, 25, 35, 40, 50, 60, 70, 80,
            90, 100, 150, 200, ... and all channels or groups; for masks over positions 0.05, 0.1, 0.2, 0.4, 0.6, 0.8,
            1.0, as far as a mask can be that small.
        mask: "channels" (equation 9), "spatial" for smooth masks over the layer's positions, or a mask family. The
            lengths of a :class:`~captum_extremal.SmoothMask` are in positions of the layer. With a ``layer_mask`` it is
            :class:`~captum_extremal.GroupMask`.
        channel_dim: the axis of the layer's activation that holds the channels, of a transformer the embedding. None
            is 1, but activations of three dimensions need it: 1 for signals (N, channels, positions), -1 for tokens
            (N, tokens, embedding). Of four, Swin's are (N, H, W, C) and need -1 too. "channels" masks this axis,
            "spatial" all others but the first.
        prefix_tokens: for masks over a transformer's tokens, how many stand before the image's and are always kept.
        token_grid: for masks over tokens, the shape in which they lie in the image, such as (14, 14); None for a
            sequence.
    """

    mask: str | MaskFamily | GroupMask = "channels"
    channel_dim: int | None = None
    prefix_tokens: int = 0
    token_grid: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.family()
        check_axes(self.channel_dim, self.prefix_tokens, self.token_grid)
        for name, unset in (("channel_dim", None), ("prefix_tokens", 0), ("token_grid", None)):
            if isinstance(self.mask, GroupMask) and getattr(self, name) != unset:
                raise ValueError(f"{name} must be {unset} for masks over groups, got {getattr(self, name)}")

    @property
    def _over_units(self) -> bool:
        return True

    def family(self) -> MaskFamily | GroupMask:
        """The family of the masks."""
        if not isinstance(self.mask, str):
            return as_family(self.mask)
        check_choice("mask", self.mask, _FAMILIES)
        return _FAMILIES[self.mask]

    def _default_areas(self, layouts: Sequence[Layout], smallest: float) -> tuple[int, ...] | tuple[float, ...]:
        """Those of the masks, where all tensors have the same; else fractions."""
        shared = {layout.default_areas for layout in layouts}
        if len(shared) == 1:
            return _not_below(shared.pop(), smallest)
        return tuple(area for area in (*AREAS, 1.0) if area >= smallest)


def _not_below(areas: tuple[int, ...] | tuple[float, ...], smallest: float) -> tuple[int, ...] | tuple[float, ...]:
    """The areas without fractions that are too small for a mask."""
    return areas if isinstance(areas[0], int) else tuple(area for area in areas if area >= smallest)


def as_family(mask: object) -> MaskFamily | GroupMask:
    """The object, if it is a mask family."""
    if isinstance(mask, GroupMask):
        return mask
    if not isinstance(mask, MaskFamily) or isinstance(mask, type):
        raise TypeError(
            f"mask must be an object with layout, bind_areas and smallest_area, such as SmoothMask(), got {mask!r}"
        )
    return mask


def as_perturbation(perturbation: str | Perturbation) -> Perturbation:
    """The perturbation of this name; an object with ``bind`` is returned as it is."""
    if isinstance(perturbation, str):
        check_choice("perturbation", perturbation, _PERTURBATIONS)
        return _PERTURBATIONS[perturbation]
    if not isinstance(perturbation, Perturbation) or isinstance(perturbation, type):
        raise TypeError(f"perturbation must be a name or an object with bind(x, baseline), got {perturbation!r}")
    check_callable("perturbation.bind", perturbation.bind, "x", "baseline")
    return perturbation


def warn_of_baselines(baselines: BaselineType, perturbation: Perturbation) -> None:
    """Warn of baselines that a perturbation does not use."""
    if baselines is not None and isinstance(perturbation, BlurPyramid):
        warn_caller("baselines are not used by the blur: give perturbation='fade' to hide the input by them")
    if baselines is not None and isinstance(perturbation, SamplePerturbation):
        warn_caller("baselines are not used by SamplePerturbation, whose background hides the input")


def documents(settings: type[SearchSettings]) -> Callable[[_Method], _Method]:
    """Show the settings that a method takes as ``**settings`` in its signature and its help."""

    def decorate(method: _Method) -> _Method:
        own = inspect.signature(method)
        explicit = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        shown = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=field.type,
            )
            for field in fields(settings)
        ]
        cast(Any, method).__signature__ = own.replace(parameters=[*explicit, *shown])
        about = "".join(_arguments_in(kind) for kind in reversed(settings.__mro__) if issubclass(kind, SearchSettings))
        method.__doc__ = (method.__doc__ or "").replace("            **settings: as listed here.\n", about)
        return method

    return decorate


def _arguments_in(kind: type) -> str:
    """The lines of a class's ``Args``, indented as in a method."""
    lines = (kind.__doc__ or "").partition("    Args:\n")[2].rstrip().splitlines()
    return "".join(f"    {line}\n" for line in lines)
