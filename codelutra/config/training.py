"""The sections of a config that training reads. The docstring below each field says what its value trades."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from codelutra.config.section import ADDED, SAME_RESULT, TOKENS, Section

Method = Literal["full", "lora", "qlora"]
Sharding = Literal["none", "full"]
OPEN_RATES = {"TrainSection": 1e-5, "WarmStartSection": 1e-4}  # what an open learning_rate compares as

# β where a config has none, for losses that 0.1 makes no sense of; all others take 0.1.
BETAS = {
    "ipo": 1.0,  # aims at a margin of 1/(2β) nats a token (2310.12036, eq. 17): half a nat, where 0.1 aims at 5
    "sigmoid_norm": 5.0,  # Tülu 3 (2411.15124): margins are means over tokens, some 30 times smaller than DPO's sums
    "sppo_hard": 1.0,  # aims at ±1/(2β) nats an answer (2405.00675, eq. 4.7) and pulls with 1/β: 0.1 pulls 200 times DPO
}


class TrainSection(Section):
    objective: Literal["preference", "rft", "sft", "grpo"] = "preference"
    """What an iteration learns from. preference: pairs, by DPO + λ·SFT (CodeLutra; λ = 0 is plain DPO). rft: SFT on the
    policy's own right answers. sft: SFT on the references, without sampling. grpo: GRPO on all its answers, right ones
    against wrong ones of the same problem (section `grpo`)."""
    method: Method = "full"
    """Which weights are trained. full: all, which takes 16 bytes each. lora: an adapter over frozen weights (2 bytes each in
    bfloat16). qlora: an adapter over weights in 4 bits; it needs a GPU and bitsandbytes. Afterwards the adapter is merged in
    float32."""
    adapter: Annotated[Literal["fresh", "continued"], ADDED] = "fresh"
    """For lora and qlora: what the adapter of an iteration is added to. fresh: a new adapter on the policy before.
    continued: one adapter over the base model through all iterations, so that vLLM can serve the base model with it; it has
    to hold all that is learned."""
    start: Annotated[Literal["previous", "first"], ADDED] = "previous"
    """Which policy an iteration trains. previous: the one before; drift adds up. first: policy 0 anew, on the data of all
    iterations so far (V-STaR, ReST-EM), which takes longer. For objectives preference and rft."""
    beta: float = Field(0.1, gt=0, le=1000)
    """β of DPO: higher holds the policy closer to the reference model. Absent: by loss_type, 0.1 for sigmoid."""
    dpo_weight: Annotated[float, ADDED] = Field(1.0, ge=0, le=1000)
    """Weight of the preference loss. 0 keeps only the SFT term, on the same answers in the same steps. That control shows
    what wrong answers are worth. 1 helped where right samples are rare, and cost where they are not; 0.2 did no harm."""
    sft_weight: float = Field(1.0, ge=0, le=1000)
    """λ, the weight of the SFT term. 0 is plain DPO, which can lower the log-probability of right answers, too."""
    sft_norm: Literal["token", "sequence"] = "token"
    """Scale of the SFT term. token: mean over answer tokens, as in iterative RPO (2404.19733; λ = 1, β = 0.1 there).
    sequence: each answer's summed log-probability, averaged over answers. That is 20 to 50 times as much for SQL, so with
    λ = 1 DPO has a small part of the gradient."""
    sft_on: Annotated[Literal["chosen", "right", "right+references"], ADDED] = "chosen"
    """Answers that the SFT term imitates. chosen: the chosen answers of the pairs. right: every distinct right sample,
    paired or not. right+references: those and the references that are shown. For objective rft, chosen means right."""
    sft_earlier: Annotated[bool, ADDED] = False
    """Let the SFT term imitate the right samples of earlier iterations too, while pairs stay on-policy."""
    loss_type: Literal[
        "sigmoid", "sigmoid_norm", "hinge", "ipo", "nca_pair", "sppo_hard", "apo_zero", "apo_down", "discopop"
    ] = "sigmoid"
    """TRL's name of the preference loss; sigmoid is DPO. Losses that need more than a pair and β are not offered."""
    replay_references: bool = False
    """Add the references of all train problems to the SFT term. Keeps what the warm start taught. With sft_on right it means
    right+references."""
    learning_rate: float | None = Field(None, gt=0, le=1)
    """Learning rate: too small changes nothing, too large breaks the model in 25 steps. null: by the model's size, the
    method and the objective (training/rates.py)."""
    epochs: float = Field(1.0, gt=0, le=1000)
    """Passes over the pairs. More fit them better and drift further from the policy before."""
    batch_size: int = Field(16, ge=1, le=65536)
    """Pairs per optimizer step. With sft_on right it counts pairs or right answers, whichever there are more of. Larger
    batches make fewer, steadier steps."""
    micro_batch: int = Field(8, ge=1, le=65536)
    """Pairs in memory at once; gradients of a batch are accumulated. Smaller needs less memory and more time."""
    processes: Annotated[int, SAME_RESULT] = Field(1, ge=1, le=1024)
    """Training processes that share every batch, one per GPU, here or on the nodes of `cluster`. Same weights up to
    rounding."""
    sharding: Annotated[Sharding, ADDED, SAME_RESULT] = "none"
    """How `processes` hold the model. none: each has a whole one. full: each has its part of weights, gradients and
    optimizer state (FSDP), for a model that does not fit one GPU. Gathering the weights takes time. Same weights up to
    rounding."""
    max_length: int = Field(1024, ge=16, le=TOKENS)
    """Largest number of tokens of prompt and answer together. Longer pairs are left out and counted, never cut."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; then it falls as a cosine."""
    weight_decay: float = Field(0.0, ge=0, le=100)
    """AdamW's weight decay: higher pulls the weights towards 0."""
    lora_rank: int = Field(16, ge=1, le=16384)
    """Rank of the adapter, for lora and qlora. Higher learns more and needs more memory."""
    lora_alpha: int = Field(32, ge=1, le=65536)
    """Scale of the adapter: its update is multiplied by lora_alpha / lora_rank."""
    gradient_checkpointing: Annotated[bool | None, SAME_RESULT] = None
    """Keep one activation per layer and compute the others again in the backward pass: far less memory, a quarter to a third
    more time. null: only if a GPU would not hold them otherwise."""
    checkpoint_steps: Annotated[int, SAME_RESULT] = Field(25, ge=1, le=10**6)
    """Steps between checkpoints. A kill loses at most these; writing one takes seconds and three times the model's size on
    disk. A training by one process writes one at least every three minutes as well."""
    min_chosen_drift: float = Field(-10.0, ge=-1e6, le=1e6)
    """The run warns if the mean log-probability of chosen answers falls this far below the reference model's, in nats per
    answer."""
    min_chosen_drift_per_token: Annotated[float, ADDED] = Field(-0.5, ge=-1e6, le=1e6)
    """The same warning in nats per token, for short answers: 10 nats may be all of a short answer's log-probability."""
    stop_on_drift: bool = False
    """Stop training if min_chosen_drift or min_chosen_drift_per_token warns, and keep the weights of that step."""

    @model_validator(mode="before")
    @classmethod
    def _beta_of_the_loss(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("beta") is None:
            loss = raw.get("loss_type")
            return raw | {"beta": BETAS.get(loss, 0.1) if isinstance(loss, str) else 0.1}
        return raw

    @model_validator(mode="after")
    def _batch(self) -> TrainSection:
        if self.batch_size % self.micro_batch and self.micro_batch < self.batch_size:
            wrong = f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}"
            raise ValueError(f"{wrong}; choose a micro_batch that divides it")
        _shardable(self)
        if self.adapter == "continued" and self.method == "full":
            raise ValueError("adapter continued: method full trains no adapter; set method to lora or qlora")
        if self.objective == "preference" and not (self.dpo_weight or self.sft_weight):
            raise ValueError("dpo_weight 0 and sft_weight 0: the loss is 0 and nothing would be learned; raise one of them")
        return self

    @property
    def has_sft_term(self) -> bool:
        """Whether it learns from pairs, and imitates beside."""
        return self.objective == "preference" and self.sft_weight > 0

    @property
    def imitates_samples(self) -> bool:
        """Whether answers of the policy that are in no pair are imitated."""
        return self.objective == "rft" or (self.has_sft_term and self.sft_on != "chosen")

    @property
    def imitates_references(self) -> bool:
        """Whether the references that are shown join the policy's own right answers."""
        return self.imitates_samples and (
            self.sft_on == "right+references" or (self.replay_references and self.sft_on == "right")
        )

    @property
    def restarts(self) -> bool:
        """Whether every iteration trains the start policy."""
        return self.start == "first" and self.objective in ("preference", "rft")

    @property
    def supervised(self) -> WarmStartSection:
        """The settings that plain SFT shares with training on pairs."""
        return WarmStartSection(**self.model_dump(include=set(WarmStartSection.model_fields)))


class WarmStartSection(Section):
    method: Annotated[Method, ADDED] = "full"
    """Which weights are trained, as in `train`: all, or an adapter that is merged afterwards."""
    epochs: float = Field(3.0, gt=0, le=1000)
    """Passes over the references of the train split. After too many the model knows them by heart."""
    learning_rate: float | None = Field(None, gt=0, le=1)
    """Learning rate of SFT on references. null: by the model's number of weights, 1e-4 up to 0.2B and 1e-5 above; ten times
    that for an adapter."""
    batch_size: int = Field(16, ge=1, le=65536)
    """References per optimizer step."""
    micro_batch: int = Field(16, ge=1, le=65536)
    """References in memory at once, as in `train`."""
    processes: Annotated[int, SAME_RESULT] = Field(1, ge=1, le=1024)
    """Training processes that share every batch, one per GPU, as in `train`."""
    sharding: Annotated[Sharding, ADDED, SAME_RESULT] = "none"
    """How `processes` hold the model, as in `train`. full: each has a part, for a model that does not fit one GPU."""
    max_length: int = Field(1024, ge=16, le=TOKENS)
    """Largest number of tokens of prompt and reference together. Longer ones are left out and counted."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(0.0, ge=0, le=100)
    """AdamW's weight decay: higher pulls the weights towards 0."""
    lora_rank: Annotated[int, ADDED] = Field(16, ge=1, le=16384)
    """Rank of the adapter, for lora and qlora."""
    lora_alpha: Annotated[int, ADDED] = Field(32, ge=1, le=65536)
    """Scale of the adapter: its update is multiplied by lora_alpha / lora_rank."""
    gradient_checkpointing: Annotated[bool | None, SAME_RESULT] = None
    """Less memory for more time, as in `train`."""
    checkpoint_steps: Annotated[int, SAME_RESULT] = Field(50, ge=1, le=10**6)
    """Steps between checkpoints, as in `train`."""

    @model_validator(mode="after")
    def _processes(self) -> WarmStartSection:
        _shardable(self)
        return self


def _shardable(section: TrainSection | WarmStartSection) -> None:
    """Raise ValueError for a section whose model cannot be in parts."""
    if section.sharding == "full" and section.processes == 1:
        raise ValueError("sharding full: with processes 1 there is nobody to share the model; set processes to 2 or more")
    if section.sharding == "full" and section.method == "qlora":
        raise ValueError("sharding full: weights in 4 bits are not sharded; set method to lora or full, or sharding to none")
