"""How good a codec is: scores of decoded audio, and reports over folders of it."""

from codec.evaluate.metrics import mel_distance, pesq_wb, si_sdr, stoi
from codec.evaluate.report import ROW_HEADINGS, STAGE_HEADINGS, Report, Row, Scores, evaluate, usual_bitrates
from codec.evaluate.table import markdown_table, rich_table

__all__ = [
    "ROW_HEADINGS",
    "STAGE_HEADINGS",
    "Report",
    "Row",
    "Scores",
    "evaluate",
    "markdown_table",
    "mel_distance",
    "pesq_wb",
    "rich_table",
    "si_sdr",
    "stoi",
    "usual_bitrates",
]
