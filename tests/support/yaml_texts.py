"""Texts that YAML could take for something else."""

from __future__ import annotations

ODD_TEXTS = (
    "", " ", " x ", "a b", "#", "x #y", "x: y", "x:", ":x", "- a", "-", "? x", "?", "---", "...",
    "'", '"', "\\", "a'b\"c\\", "&a", "*a", "!t", "%", "@", "`", "[", "]", "{", "}", ",", "a,b",
    "|", ">", "=", "<<", "~", "null", "Null", "true", "False", "on", "off", "yes", "No", "y",
    "1", "-1", "010", "0o10", "0x1F", "0b1", "1_000", "1.5", "1.", ".5", ".5e3", "1e3", "1E-3",
    "._", "-_", ".inf", "-.INF", ".nan", "1:30", "190:20:30", "2026-11-24", "2026-11-24 10:00:00",
    "s3://b/a=b", "/data/My Photos #2", "C:\\x", "~user/x", "a\nb\n", "\n\n x\n", "\t", "a\tb",
    "\r\n", "\x00", "\x07", "\x1b[0m", "\x7f", "\x85", "\xa0", "\u2028", "\ufeff", "\ufeffx",
    "\u200b", "\ue000", "ü", "\u0308", "日本語", "😀", "\U0010ffff", "x" * 400, "word " * 60,
)  # fmt: skip
