"""Find the sizes, layers and poolings that the extractor returns."""

from __future__ import annotations

from ..backbones import Backbone, LayerInfo
from ..data import check_target
from ..engines import pooled_width
from .columns import SeveralColumns
from .layer_choice import LayerChoice, candidate_layers, choose_layer
from .output import Output, side_of
from .poolings import check_poolings, is_learned, layer_for, unlearned
from .sizes import SizeChoice, candidate_sizes, choose_size
from .word_weights import TokenWeights

__all__ = ["ChosenOutputs"]


class ChosenOutputs(SeveralColumns):
    """Base of the extractor: which outputs it returns, by its parameters or by a comparison."""

    backbone_: Backbone
    image_size_: int | None
    layer_choice_: LayerChoice
    layers_: list[str]
    size_choice_: SizeChoice
    token_weights_: dict[str, TokenWeights]

    def _fit_column(self, X, y) -> None:
        """Load the backbone, and find the outputs and their widths."""
        samples, y = self._fit_readable(X, y)
        for name in ("token_weights_", "layer_choice_", "size_choice_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        check_poolings(self._poolings(), self.backbone_)
        outputs = self._find_outputs(samples, y)
        self.layers_ = list(dict.fromkeys(layer for layer, _ in outputs))
        self._blocks = [(i, *output) for i in range(len(self._sized)) for output in outputs]
        learned = [p for p in self._poolings() if is_learned(p)]
        if learned:
            run = {"batch_size": self.batch_size, "device": self.device}
            self.token_weights_ = {
                p: TokenWeights.learn(p, samples, self.backbone_, **run) for p in learned
            }
        inspected = [self._inspect(samples, backbone) for backbone in self._sized]
        self._widths = [self._width(inspected[i][layer], p) for i, layer, p in self._blocks]

    def _find_outputs(self, samples, y) -> list[tuple]:
        """Choose the size and the layer if asked to; list each pooling of each layer."""
        if self.image_size != "auto":
            return self._find_layers(samples, y)
        native = self.backbone_
        sizes = candidate_sizes(native)
        for sized in sizes:
            self._inspect(samples, sized)
        outputs = self._find_layers(samples, y)
        self.size_choice_ = choose_size(
            sizes,
            check_target(y, len(samples)),
            lambda backbones, rows: self._features_by_size(samples, backbones, outputs, rows),
            default=native,
            task=self.task,
            random_state=0,
        )
        self.image_size_ = self.size_choice_.size
        self.backbone_ = native.with_image_size(self.image_size_)
        return outputs

    def _find_layers(self, samples, y) -> list[tuple]:
        """List each pooling of each layer that is asked for."""
        asked = self.layer if isinstance(self.layer, list) else [self.layer]
        if not asked:
            raise ValueError("layer=[] names no layer: give at least one, or None.")
        if self.layer == "auto":
            self.layer_choice_ = self._probe_layers(samples, y)
            asked = [self.layer_choice_.layer]
        tokens = self._layers_of_tokens(samples)
        return [
            (layer_for(self.backbone_, layer, p, tokens), p)
            for layer in asked
            for p in self._poolings()
        ]

    def _probe_layers(self, samples, y, layers=None, random_state=0) -> LayerChoice:
        """Score layers by a linear model on their features."""
        poolings = [unlearned(p) for p in self._poolings()]
        strictest = next((p for p in poolings if p != "avg"), "avg")
        tokens = self._layers_of_tokens(samples)
        asked = [*candidate_layers(self.backbone_)[:-1], None] if layers is None else layers
        return choose_layer(
            self.backbone_,
            check_target(y, len(samples)),
            lambda names, rows: self._features_by_layer(samples, names, poolings, rows),
            layers=[layer_for(self.backbone_, layer, strictest, tokens) for layer in asked],
            task=self.task,
            random_state=random_state,
        )

    @property
    def outputs_(self) -> list[Output]:
        learned = getattr(self, "token_weights_", {})
        sized = self._sized
        return [
            Output(sized[i], layer, learned[p] if is_learned(p) else p, width)
            for (i, layer, p), width in zip(self._blocks, self._widths, strict=True)
        ]

    @property
    def output_names_(self) -> list[str]:
        return [self._name_block(*block) for block in self._blocks]

    def _poolings(self) -> list:
        return self.pooling if isinstance(self.pooling, list) else [self.pooling]

    def _layers_of_tokens(self, samples) -> list[str] | None:
        """Return the layers with a vector for each token, or None if samples have no tokens."""
        if not self.backbone_.modality.has_tokens:
            return None
        return [name for name, layer in self._inspect(samples).items() if layer.has_tokens]

    def _width(self, layer: LayerInfo, pooling) -> int:
        """Return the number of features of a layer under one pooling."""
        return pooled_width(layer, unlearned(pooling))

    def _name_block(self, i: int, layer: str, pooling) -> str:
        label = "features" if self.layer is None else layer
        if isinstance(self.image_size, list | str):
            label = f"{side_of(self._sized[i])}_{label}"
        if not isinstance(self.pooling, list):
            return label
        return f"{label}_{getattr(pooling, '__name__', pooling)}"
