"""Which token has which id."""

from collections.abc import Sequence

from codec.choose import choose

# What stands in a cell of a sequence is of some kind: a stage (from 0: a code of it), or one of these. Negative and in
# the order of their ids, they index the end of a table that begins with the stages.
PAD, BOS, EOS, SEP = range(-4, 0)
SPECIAL = ("pad", "bos", "eos", "sep")
# More than any codec has; a damaged file of settings may claim more than there is memory.
MAX_STAGES, MAX_CODES = 256, 1 << 20


class Vocabulary:
    """Ids of codes, special tokens and extras, without gaps.

    | ids | token |
    | --- | --- |
    | `offset(q) + c` | code c of stage q; the offset is `q * codebook_size`, or 0 in a shared vocabulary |
    | next | `pad`: nothing is here |
    | next | `bos`: a sequence begins |
    | next | `eos`: it ends |
    | next | `sep`: the next stage follows (coarse_first) |
    | next | the extras, in the order given |

    Args:
        num_quantizers: Stages whose codes are tokens.
        codebook_size: Codes of a stage.
        shared: The stages share one range of ids: a smaller vocabulary, in which the place of a token tells its stage.
        extras: Names of further tokens, such as speakers or text separators. No sequence of codes holds them: they are
            for what stands before it.

    Raises:
        ValueError: A size is out of range, or a name is empty, or stands twice, or is that of a special token.
    """

    def __init__(self, num_quantizers: int, codebook_size: int, shared: bool = False, extras: Sequence[str] = ()):
        if not (1 <= num_quantizers <= MAX_STAGES and 1 <= codebook_size <= MAX_CODES // num_quantizers):
            raise ValueError(
                f"num_quantizers must be from 1 to {MAX_STAGES}, and codebook_size from 1 to {MAX_CODES} over "
                f"num_quantizers; got {num_quantizers}, {codebook_size}"
            )
        if isinstance(extras, str):
            raise ValueError(f"extras must be a list of names; got {extras!r}")
        names = (*SPECIAL, *extras)
        if len(set(names)) < len(names) or "" in names:
            raise ValueError(
                f"extras must have names of their own, none of them {', '.join(SPECIAL)}; got {list(extras)}"
            )
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.shared = shared
        self.extras = tuple(extras)
        self._ids = {name: self.num_codes + index for index, name in enumerate(names)}

    @property
    def num_codes(self) -> int:
        """Ids that are codes: all below this one."""
        return self.codebook_size * (1 if self.shared else self.num_quantizers)

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.num_codes + len(self._ids)

    def offset(self, stage: int) -> int:
        """The id of code 0 of a stage.

        Raises:
            ValueError: There is no such stage.
        """
        if not 0 <= stage < self.num_quantizers:
            raise ValueError(f"stage must be from 0 to {self.num_quantizers - 1}; got {stage}")
        return 0 if self.shared else stage * self.codebook_size

    def id_of(self, name: str) -> int:
        """The id of `pad`, `bos`, `eos`, `sep` or an extra.

        Raises:
            ValueError: There is no token of that name.
        """
        return choose(self._ids, name, "token")

    def ids_of(self, kind: int) -> range:
        """All ids of a kind: the codes of a stage, or the one of PAD, BOS, EOS or SEP."""
        if kind < 0:
            first = self.num_codes + kind - PAD
            return range(first, first + 1)
        return range(self.offset(kind), self.offset(kind) + self.codebook_size)

    def describe(self, ids: range) -> str:
        """Ids as a message names them: `a code from 0 to 1023`, `code 5`, `eos (4098)`."""
        if len(ids) > 1:
            return f"a code from {ids[0]} to {ids[-1]}"
        if ids[0] < self.num_codes:
            return f"code {ids[0]}"
        return f"{list(self._ids)[ids[0] - self.num_codes]} ({ids[0]})"
