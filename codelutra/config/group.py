"""The section that `train.objective: grpo` reads. The docstring below each field says what its value trades."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from codelutra.config.section import Section

_GROUPING = {"advantage", "baseline_shift", "filter_groups"}


class GrpoSection(Section):
    """GRPO on an iteration's own samples; names and defaults are TRL's where TRL has the setting."""

    advantage: Literal["grpo", "dr_grpo", "asymre"] = "grpo"
    """Formula of the advantage, from an answer's reward r (1 for right, 0 for wrong) and the mean and standard deviation of
    its problem's samples. grpo: (r - mean) / std, so hard and easy problems weigh more than half-solved ones. dr_grpo: r -
    mean (2503.20783), so they weigh less. asymre: r - (mean - `baseline_shift`) (2506.20520), so right answers weigh
    more."""
    baseline_shift: float = Field(0.1, ge=0, le=1)
    """δ of `advantage: asymre`. Higher trusts right answers more and holds wrong ones less against the policy."""
    filter_groups: bool = True
    """Leave out problems whose samples are all right or all wrong, as DAPO does. For grpo and dr_grpo they have no gradient
    and only make the other answers' smaller; asymre imitates them with weight `baseline_shift`, wrong ones too."""
    negative_weight: float = Field(1.0, ge=0, le=1000)
    """Factor on negative advantages. Below 1 wrong answers push less; 0 learns from right answers alone."""
    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = "dapo"
    """How the loss is averaged over tokens. grpo: over each answer, then over answers (a token of a short answer weighs
    more). dapo: over all tokens of the batch. bnpo: over those of a micro-batch. dr_grpo: sum / (answers *
    sample.max_tokens)."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """What is clipped: the probability ratio of each token, or its geometric mean over an answer (GSPO, 2507.18071; it takes
    a far smaller `epsilon`, such as 3e-4)."""
    epsilon: float = Field(0.2, gt=0, lt=1)
    """A wrong answer's token stops pushing once its probability is below 1 - epsilon times that under policy t-1. Smaller
    stays closer to policy t-1."""
    epsilon_high: float | None = Field(None, gt=0, le=1000)
    """A right answer's token stops pushing once its probability is above 1 + epsilon_high times that under policy t-1. null:
    `epsilon`. DAPO takes 0.28, to let rare tokens rise."""
    kl: float = Field(0.0, ge=0, le=1000)
    """Weight of the KL divergence from policy t-1 (`beta` in TRL). Higher keeps the policy closer to it."""

    @property
    def grouping(self) -> dict[str, Any]:
        """What making groups of outcomes reads, for its key in the store."""
        unread = set() if self.advantage == "asymre" else {"baseline_shift"}
        return self.model_dump(include=_GROUPING - unread)

    @property
    def training(self) -> dict[str, Any]:
        """What training on groups reads, likewise."""
        return self.model_dump(exclude=_GROUPING)
