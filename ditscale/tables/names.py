"""Which columns of somebody else's table are probably N, D, C and the loss. Only suggested, never taken."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..units import compact
from .numerals import POWERS, parse

# (names as a whole; words of which one must be there; further words that may be, the likelier first). A name with any
# other word is another quantity: flops_per_token, params_wte, tokens_per_sec, loss_scale. "_": no further word.
QUANTITIES = {
    "n_params": ("n size", "params param parameters parameter nparams", "_ transformer nonembedding total all trainable"
                 " dense backbone active"),
    "n_tokens": ("d data", "tokens token ntokens", "_ trained train training total seen processed consumed data"),
    "budget_flops": ("c", "flops flop compute budget", "_ budget flops compute total train training trained target"
                     " planned estimated est"),
    "loss": ("l ce", "loss bpb xent crossentropy paloma", "val valid validation eval evaluation heldout test dev final"
             " last _ macro micro avg mean lm bpb paloma c4 train training smoothed ema best"),
    "lr": ("rate", "lr learning", "_ rate learning peak max base"),
}  # fmt: skip
FILLER = {"n", "num", "number", "of", "count", "model", "size", "config", "summary", "metrics", "args"}
UNITS = {word: 10.0**power for word, power in POWERS.items()} | {"thousands": 1e3, "millions": 1e6, "billions": 1e9}
PREFIXED = {"eflops": 1e18, "exaflops": 1e18, "pflops": 1e15, "petaflops": 1e15, "zflops": 1e21, "zettaflops": 1e21}


def guess_columns(missing: Sequence[str], free: Mapping[str, Sequence[Any]]) -> tuple[dict[str, str], list[str]]:
    """({our name: the column that is probably meant, with a factor where its name has a unit}, [what else could be])
    of the numeric columns that are free; none is named for two of ours."""
    numeric = {}
    for name, values in free.items():
        first = next((v for v in values if v is not None and str(v).strip() not in ("", "-", "nan")), None)
        if (number := parse(first)) is not None:
            numeric[name] = number
    letters = [name for name in numeric if name.strip().lower() in ("n", "d", "c")]
    if len(letters) == 1:  # A letter means N, D or C beside another of them alone.
        del numeric[letters[0]]
    meant: dict[str, str] = {}
    doubts, taken = [], set()
    for ours in missing:
        ranked = sorted((rank, i, name) for i, name in enumerate(numeric) if (rank := _rank(ours, name)) is not None)
        fit = [name for _, _, name in ranked if name not in taken]
        if not fit:
            plain = {re.sub(r"\W+", "_", name.strip().lower()): name for name in numeric if name not in taken}
            fit = [plain[close] for close in difflib.get_close_matches(ours, plain, n=1, cutoff=0.82)]
        if fit:
            taken.add(fit[0])
            factor = _words(fit[0])[1]
            meant[ours] = fit[0] + (f"*{compact(factor)}" if factor > max(1.0, numeric[fit[0]]) else "")
        if len(fit) > 1:
            others = f"{ours} may also be {', '.join(map(repr, fit[1:4]))}"
            doubts.append(f"{others}, which changes what N counts" if ours == "n_params" else others)
    return meant, doubts


def _words(name: str) -> tuple[list[str], float]:
    """(the words of a name, less its unit; what a count is multiplied by): params_M and N (millions) say 1e6."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    text = re.sub(r"(non|no|without|excl|excluding)[\W_]*emb(edding)?s?(?![a-z])", " nonembedding ", text)
    *rest, last = re.findall(r"[a-z0-9]+", text.replace("cross_entropy", "crossentropy")) or [""]
    power = float(last) if rest and re.fullmatch(r"1e\d+", last) else 0.0
    unit = power or UNITS.get(last, 0.0) * bool(rest)
    prefix = next((PREFIXED[word] for word in (*rest, last) if word in PREFIXED), 0.0)
    words = ["flops" if word in PREFIXED else word for word in (rest if unit else (*rest, last))]
    return words, power or prefix or unit or 1.0


def _rank(ours: str, name: str) -> int | None:
    """How likely a column is one of ours, 0 first; None where its name says that it is not."""
    alone, needed, further = map(str.split, QUANTITIES[ours])
    words, _ = _words(name)
    if len(words) == 1 and words[0] in alone or ours == "n_params" and words == ["model", "size"]:
        return 0
    core = next((word for word in words if word in needed), None)
    rest = [word for word in words if word != core and word not in FILLER]
    if core is None or not set(rest) <= set(further):
        return None
    return min((further.index(word) for word in rest), default=further.index("_"))
