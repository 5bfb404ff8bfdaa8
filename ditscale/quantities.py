"""What the numbers of a study are: a column's metric, data set and variant; in words, what N, D and C count."""

import re
from dataclasses import dataclass, fields
from typing import Any, Literal, Mapping, Self

# A metric of `ditscale evaluate`, and its name in a study's table.
METRICS = {"val_loss": "loss", "vlb": "vlb", "likelihood": "nll", "fid": "fid"}
# What N counts by `params` of study.yaml, what D counts, and what C counts by `flops`.
PARAMS = {"total": "all parameters", "blocks": "weights of the transformer blocks only"}
PARAMS |= {"matmul": "weights of all matrix products (no biases, no embedding tables)"}
TOKENS = "tokens that pass the blocks, all images seen (a repeated image counts each time)"
FLOPS = {"exact": "every matrix product of forward and backward, attention included", "6nd": "6 N D"}

# Words in the name of a metric of which higher is better, and words of which lower is: the latter outrank.
HIGHER = frozenset(
    "accuracy acc score clip clipscore precision recall f1 auc psnr ssim reward elo winrate likelihood".split()
)
LOWER = frozenset(
    "loss error fid kid fd fad fvd mmd cmmd lpips distance mse rmse mae nll neg negative perplexity ppl bpd bpb".split()
)


@dataclass(frozen=True)
class ColumnInfo:
    """What a column holds: a metric (by its name in the table) on a data set, as its value or its standard error."""

    metric: str
    dataset: str = ""  # "": unknown.
    variant: str = ""  # What was different in how it was measured ("guidance=2"); "" for the usual way.
    quantity: Literal["value", "se"] = "value"
    unit: str = ""

    @property
    def positive(self) -> bool:
        """Whether the metric is above zero by what it is: a loss or a FID."""
        return not {"loss", "fid"}.isdisjoint(self._words)

    @property
    def higher_is_better(self) -> bool:
        """Whether the metric's name is one of which higher is better."""
        return not HIGHER.isdisjoint(self._words) and LOWER.isdisjoint(self._words)

    @property
    def _words(self) -> list[str]:
        """The words of the metric's name: eval and fid of eval/FID50k, with a k."""
        return re.findall("f1|[a-z]+", self.metric.lower())

    def name(self, own: str) -> str:
        """The column's name where a study's own data set is `own`: fid, fid_se, fid_se_coco, fid:guidance=2."""
        parts = (self.metric, "se" if self.quantity == "se" else "", "" if self.dataset == own else self.dataset)
        return "_".join(filter(None, parts)) + (f":{self.variant}" if self.variant else "")

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Self | None:
        """From the attributes of a column in study.h5; None where they are not there."""
        given: dict[str, Any] = {f.name: str(attributes[f.name]) for f in fields(cls) if f.name in attributes}
        return cls(**given) if given.get("metric") and given.get("quantity", "value") in ("value", "se") else None


def at_optimum(metric: str) -> str:
    """What a metric is called at the optimum: "L*" of a loss, "fid*" of FID."""
    return "L*" if "loss" in metric.lower() else f"{metric}*"


def guess(name: str) -> ColumnInfo:
    """What a column of a table from elsewhere probably holds: a name that starts with a metric of ours is read as
    `ColumnInfo.name` writes it; any other is a metric of its own."""
    base, _, variant = name.partition(":")
    metric, _, rest = base.partition("_")
    if metric.lower() not in METRICS.values():
        return ColumnInfo(base, "", variant)
    first, _, others = rest.partition("_")
    return ColumnInfo(metric, others, variant, "se") if first == "se" else ColumnInfo(metric, rest, variant)
