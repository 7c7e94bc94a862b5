"""The model that compression works on and leaves behind: any supported encoder, of any shape, with exits.

It runs the layers itself, because an example that leaves early must stop the work, and because gradients are rescaled
between the layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import ModelOutput

from compresskit import registration
from compresskit.anatomy import Anatomy, embeddings_project, find, layers
from compresskit.catalogue import build, load_catalogue
from compresskit.config import CompressedConfig
from compresskit.cost import longest, original_shape
from compresskit.edits import Shape
from compresskit.errors import CheckpointError, RecipeError
from compresskit.interfaces import ExitPolicy, MaskModule, Masks, Projections, Trace
from compresskit.masking import alive, masked, runs
from compresskit.passes import leave_early, overheard, run_through, split


@dataclass
class CompressedOutput(ModelOutput):  # type: ignore[misc]
    """What `CompressedForSequenceClassification` returns.

    Args:
        loss: scalar, where labels were given.
        logits: (batch, classes), each row from the exit at which the example left.
        exits: (batch,) 1-based layer at which each example left.
        exit_logits: (batch, classes) of every exit, by layer number, where the whole depth was run on request.
        exit_signals: (batch,) of every exit whose head says more than logits, likewise.
        hidden_states: L + 1 tensors (batch, tokens, hidden), where recorded.
        projections: queries, keys and values of each layer, where recorded.
        projected: the hidden states in a teacher's size, where there is a layer for that and they are recorded.
        alive: positions in `hidden_states` of the outputs of layers that add something, where the whole depth was run.
        ran: for each layer, whether it ran, where a mask says so.
        penalty: scalar, what `mask` adds to the loss.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    exits: Tensor | None = None
    exit_logits: dict[int, Tensor] | None = None
    exit_signals: dict[int, Tensor] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    projections: tuple[Projections, ...] | None = None
    projected: tuple[Tensor, ...] | None = None
    alive: tuple[int, ...] | None = None
    ran: tuple[bool, ...] | None = None
    penalty: Tensor | None = None


NOT_TAKEN = ("inputs_embeds", "position_ids", "output_attentions", "head_mask")
"""Arguments of transformers' models that would change an answer, or be missed in it."""
TRAINED = "trained"
"""Name of the mark on an exit's module that says whether any training has moved its weights."""


class CompressedForSequenceClassification(PreTrainedModel):  # type: ignore[misc]
    """An encoder for sequence classification, of any shape that edits can give it, with exits.

    In eval mode, with an exit policy and `leave_early` on, an example leaves at the first exit that its policy allows:
    at each exit the leavers are answered and the survivors packed together, so their number and length shrink with
    depth. The answer for an example does not depend on the batch it came in. In train mode, or with `leave_early` off,
    all go to the last layer.
    """

    config_class = CompressedConfig
    config: CompressedConfig
    base_model_prefix = "network"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: CompressedConfig, network: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        catalogue = load_catalogue()
        model_type = str(config.original.get("model_type"))
        self.anatomy: Anatomy = catalogue.anatomy(model_type)
        if network is None:
            own = AutoConfig.for_model(**config.original)
            # The precision is the one asked for now, which the loader has made torch's default, not the original's.
            network = AutoModelForSequenceClassification.from_config(
                own, dtype=None, attn_implementation=config._attn_implementation
            )
        self.network = network
        self.exits = nn.ModuleDict()
        self.exits_share: nn.Module | None = None
        self.projection: nn.Linear | None = None
        self.mask: MaskModule | None = None
        self.shape: Shape = original_shape(self.anatomy, network.config)
        self.leave_early = True
        self.policy: ExitPolicy | None = None
        self.read_out_trained, untrained = True, tuple(config.untrained)
        if config.shape is not None:
            from compresskit.surgery import reshape

            reshape(self, Shape.from_json(config.shape))
        self.read_out_trained = self.depth not in untrained
        for number, head in self.exits.items():
            setattr(head, TRAINED, int(number) not in untrained)
        config.untrained = list(self.untrained)  # which making the heads anew has overwritten
        self.post_init()
        try:
            self.set_policy(config.exit_policy)
        except CheckpointError as error:
            # At full depth the answers are as good as they get, and a report or an export needs no policy at all.
            origin = (config.exit_policy or {}).get("from")
            named = f" ({origin})" if origin else ""
            warnings.warn(f"{error}{named}; until then every example goes to the last layer", stacklevel=2)

    @property
    def body(self) -> nn.ModuleList:
        """The layers, from the first to the last."""
        return layers(self.anatomy, self.network)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.body)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return self.shape.hidden or int(getattr(self.network.config, self.anatomy.hidden_size))

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """1-based numbers of the layers that answer; the last layer is always one."""
        return self.shape.exits or (self.depth,)

    @property
    def embeddings_project(self) -> nn.Linear | None:
        """The linear layer between the embeddings and the first layer, where there is one."""
        return embeddings_project(self.anatomy, self.network)

    @property
    def shared_weights(self) -> dict[str, str]:
        """Of each weight that a layer uses and another owns, its name in the state dict and its name at the owner's."""
        path = f"network.{self.anatomy.layers}"
        return {
            f"{path}.{layer}.{name}": f"{path}.{owner}.{name}"
            for layer, owner in enumerate(self.shape.owners)
            if owner != layer
            for name, _ in self.body[layer].named_parameters()
        }

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        """What transformers leaves out of a file."""
        return self.shared_weights

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """What transformers ties when it loads a file; whatever the config says of tied word embeddings."""
        return self.shared_weights

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the tensors that the forward pass reads from a batch."""
        return (*self.anatomy.inputs, "attention_mask")

    def set_policy(self, policy: dict[str, Any] | None) -> None:
        """Use an exit policy from now on, and keep it in the config.

        Args:
            policy: `{"by": name, "with": options}` or None.

        Raises:
            CheckpointError: no installed plugin knows the policy, or not with these options.
        """
        made = None
        if policy is not None:
            remedy = "install the plugin that it comes from"
            try:
                strategy = load_catalogue().strategy("exit-policy", policy["by"])
                remedy = "give it the options that it has"
                made = cast(ExitPolicy, build(strategy, dict(policy.get("with", {}))))
            except RecipeError as error:
                raise CheckpointError(f"this model's exit policy can't be used: {error}; {remedy}") from error
        self.config.exit_policy = policy
        self.policy = made

    @property
    def untrained(self) -> tuple[int, ...]:
        """1-based layers that answer with a head whose weights are still as they were drawn."""
        return tuple(number for number in self.exit_layers if not self._is_trained(number))

    def note_trained(self, numbers: Iterable[int]) -> None:
        """The heads after these layers (1-based) have been trained."""
        for number in numbers:
            if str(number) in self.exits:
                setattr(self.exits[str(number)], TRAINED, True)
            else:
                self.read_out_trained = True
        self.sync_config()

    def _is_trained(self, layer: int) -> bool:
        return getattr(self.exits[str(layer)], TRAINED, False) if str(layer) in self.exits else self.read_out_trained

    def head_weights(self, layer: int) -> Tensor:
        """A flat copy of every weight of the head that answers after a layer (1-based); not of what all share."""
        parts = (
            [self.exits[str(layer)]]
            if str(layer) in self.exits
            else [find(self.network, part) for part in self.anatomy.read_out if not part.startswith(":")]
        )
        return torch.cat([weight.detach().flatten() for part in parts for weight in part.parameters()])

    def sync_config(self) -> None:
        """Write the shape, and which heads are untrained, into the config, so that a saved folder can be rebuilt."""
        self.config.shape = self.shape.to_json()
        self.config.untrained = list(self.untrained)

    def embed(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Token ids to the first hidden states (batch, tokens, H)."""
        wanted = {name: inputs[name] for name in self.anatomy.inputs if inputs.get(name) is not None}
        tokens = inputs["input_ids"].shape[1]
        # Where embeddings look to the right, a text sees padding there whether or not its batch has a longer one.
        ahead = min(self.anatomy.lookahead, longest(self.anatomy, self.network.config) - tokens)
        if ahead > 0:
            fill = {"input_ids": self.network.config.pad_token_id or 0}
            wanted = {name: functional.pad(part, (0, ahead), value=fill.get(name, 0)) for name, part in wanted.items()}
        hidden = cast(Tensor, find(self.network, self.anatomy.embeddings)(**wanted))[:, :tokens]
        project = self.embeddings_project
        return hidden if project is None else cast(Tensor, project(hidden))

    def attention(self, hidden: Tensor, mask: Tensor) -> Tensor | None:
        """The mask in the form that the attention implementation wants."""
        return cast(
            "Tensor | None",
            create_bidirectional_mask(config=self.network.config, inputs_embeds=hidden, attention_mask=mask),
        )

    def answer(self, layer: int, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (batch, classes) of the exit after a layer (1-based), and its signal (batch,) where its head has one.

        Under autocast too the heads work in the precision of their weights: in bfloat16 an answer has eight bits, which
        is too few to tell likely from very likely, or 4.50 from 4.52.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.to(self.dtype)
            if str(layer) in self.exits:
                share = () if self.exits_share is None else (self.exits_share,)
                said = self.exits[str(layer)](hidden, mask, *share)
                return said if isinstance(said, tuple) else (said, None)
            for part in self.anatomy.read_out:
                if part == ":first":
                    hidden = hidden[:, 0]
                elif part == ":relu":
                    hidden = torch.relu(hidden)
                else:
                    hidden = find(self.network, part)(hidden)
            return hidden, None

    def trace(
        self,
        batch: Mapping[str, Tensor],
        hidden: bool = False,
        exits: tuple[int, ...] | None = None,
        gradient_equilibrium: bool = False,
        attention: bool = False,
        masks: Masks | None = None,
    ) -> Trace:
        """Run the whole depth and answer at every exit, in the train or eval mode the model is in.

        Args:
            batch: the tensors named by `input_names`.
            hidden: also record the L + 1 hidden states.
            exits: answer at these layers only; all exits where None.
            gradient_equilibrium: rescale gradients between layers, so that layer k receives the mean, not the sum, of
                the gradients of the exits at and above it (Li et al. 2019; Shen et al. 2022, eq. 3).
            attention: also record queries, keys and values.
            masks: what to use of the model; all of it where None.
        """
        with overheard(self, attention) as heard, masked(self, masks):
            trace = run_through(self, batch, exits, gradient_equilibrium, masks)
            return replace(
                trace,
                hidden=trace.hidden if hidden else (),
                attention=tuple(
                    split(self, layer, notes, trace.mask)
                    for index, (layer, notes) in enumerate(zip(self.body, heard, strict=False))
                    if runs(masks, index)
                ),
                projected=tuple(map(self.projection, trace.hidden)) if hidden and self.projection is not None else (),
                alive=alive(self, masks),
                ran=() if masks is None else masks.layers,
            )

    def forward(  # noqa: PLR0913, PLR0917 - transformers has these names, and Trainer looks for some of them
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        record_exits: tuple[int, ...] | None = None,
        record_hidden: bool = False,
        record_attention: bool = False,
        gradient_equilibrium: bool = False,
        mask_pass: tuple[int, int, int] | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> CompressedOutput | tuple[Any, ...]:
        """Classify a batch.

        Args:
            input_ids, attention_mask, token_type_ids: (batch, tokens).
            labels: (batch,) class numbers, or numbers for regression.
            record_exits: run the whole depth and return the logits of these exits too.
            record_hidden, record_attention, gradient_equilibrium: as in `trace`; only with `record_exits`.
            mask_pass: number of the pass, step and steps that `mask` is asked about, where the model has one. Here and
                not in the caller, so that several processes know which of its parameters a batch has to do with.
            output_hidden_states, return_dict: as in every model of transformers; hidden states at full depth only.
            others: inputs that tokenizers produce and this family does not read.

        Raises:
            ValueError: an input that would change the answer can't be taken, or hidden states are asked for of a model
                that leaves early.
        """
        for name in NOT_TAKEN:
            if others.get(name) is not None and others[name] is not False:
                raise ValueError(f"{name} can't be given to a compressed model; leave it out")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        batch = {"input_ids": input_ids, "attention_mask": mask}
        if token_type_ids is not None:
            batch["token_type_ids"] = token_type_ids
        if record_exits is None and not self.training and self.leave_early and self.policy and self.shape.exits:
            if output_hidden_states:
                raise ValueError("hidden states are those of full depth; set model.leave_early = False to have them")
            logits, left = leave_early(self, batch, self.policy)
            early = CompressedOutput(self._loss(logits, labels), logits, left)
            return early.to_tuple() if return_dict is False else early
        record_hidden = record_hidden or bool(output_hidden_states)
        exits = record_exits or (self.depth,)
        masks = penalty = None
        if self.mask is not None and mask_pass is not None:
            masks = self.mask.masks(*mask_pass)
            penalty = self.mask.penalty(*mask_pass[1:]) if mask_pass[0] == 0 else None
        trace = self.trace(batch, record_hidden, exits, gradient_equilibrium, record_attention, masks)
        left = torch.full_like(input_ids[:, 0], self.depth)
        recorded = (None, None) if record_exits is None else (dict(trace.logits), dict(trace.signals))
        hidden = trace.hidden if record_hidden else None
        more = (trace.attention or None, trace.projected or None, trace.alive or None, trace.ran or None, penalty)
        output = CompressedOutput(self._loss(trace.last, labels), trace.last, left, *recorded, hidden, *more)
        return output.to_tuple() if return_dict is False else output

    def _loss(self, logits: Tensor, labels: Tensor | None) -> Tensor | None:
        if labels is None:
            return None
        problem = self.config.problem_type
        if problem == "regression" or (problem is None and logits.shape[-1] == 1):
            return nn.functional.mse_loss(logits.squeeze(-1).float(), labels.float())
        if problem == "multi_label_classification" or (problem is None and labels.is_floating_point()):
            return nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float())
        return nn.functional.cross_entropy(logits.float(), labels)

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, **kwargs: Any) -> Any:
        """As `PreTrainedModel.from_pretrained`, but a weight too many or too few is an error, never a warning.

        Raises:
            CheckpointError: the weights do not fit the shape in the config.
        """
        wanted = kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)
        except RuntimeError as error:
            raise CheckpointError(
                f"{name}: the weights do not fit the shape in config.json; "
                "the folder mixes two checkpoints, copy it again"
            ) from error
        wrong = sorted({*info["missing_keys"], *info["unexpected_keys"]})
        if wrong:
            raise CheckpointError(
                f"{name}: {len(wrong)} weights are missing or too many (first: {wrong[0]}); copy the folder again"
            )
        untied = sorted(model.shared_weights.keys() - model.all_tied_weights_keys.keys())
        if untied:
            raise CheckpointError(
                f"{name}: weights that layers share differ between them (first: {untied[0]}); "
                "the folder mixes two checkpoints, copy it again"
            )
        return (model, info) if wanted else model


def wrap(network: PreTrainedModel, anatomy: Anatomy) -> CompressedForSequenceClassification:
    """An original as a compressed model of the same shape: same weights, same logits, nothing cut yet."""
    own = network.config
    # Where it was loaded from is nobody's business but this machine's.
    original = {key: value for key, value in own.to_dict().items() if key != "_name_or_path"}
    config = CompressedConfig(
        original=original | {"model_type": anatomy.model_type},
        id2label=dict(own.id2label),
        label2id=dict(own.label2id),
        problem_type=own.problem_type,
    )
    for module in network.modules():
        # Otherwise `post_init` would draw new weights for modules that were put into the network by hand.
        setattr(module, "_is_hf_initialized", True)  # noqa: B010 - mypy takes the attribute for a Module
    model = CompressedForSequenceClassification(config, network)
    model.train(network.training)
    return model


registration.register()
