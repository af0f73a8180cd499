"""Every known family, found by the architecture that config.json names.

It holds no tables; add a family's table to `FAMILIES`.
"""

from __future__ import annotations

from builders.families.baichuan import BAICHUAN
from builders.families.bloom import BLOOM
from builders.families.chatglm import CHATGLM
from builders.families.cohere import COHERE
from builders.families.common.base import Family
from builders.families.dbrx import DBRX
from builders.families.deepseek import DEEPSEEK_V2
from builders.families.falcon import FALCON
from builders.families.gemma import GEMMA, GEMMA2, GEMMA3
from builders.families.gpt import BIGCODE, GPT2, NEMOTRON, STARCODER2
from builders.families.gptneox import GPT_NEOX, GPTJ
from builders.families.granite import GRANITE
from builders.families.internlm import INTERNLM2
from builders.families.llama import LLAMA, MISTRAL
from builders.families.mixtral import MIXTRAL
from builders.families.mpt import MPT
from builders.families.opt import OPT
from builders.families.phi import PHI2, PHI3, PHIMOE
from builders.families.qwen import QWEN, QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE
from tpforge.errors import InputRefused

FAMILIES: tuple[Family, ...] = (
    LLAMA,
    MISTRAL,
    MIXTRAL,
    QWEN,
    QWEN2,
    QWEN2_MOE,
    QWEN3,
    QWEN3_MOE,
    GRANITE,
    INTERNLM2,
    NEMOTRON,
    GPT2,
    BIGCODE,
    STARCODER2,
    GPT_NEOX,
    GPTJ,
    OPT,
    BLOOM,
    MPT,
    BAICHUAN,
    CHATGLM,
    FALCON,
    GEMMA,
    GEMMA2,
    GEMMA3,
    PHI2,
    PHI3,
    PHIMOE,
    COHERE,
    DBRX,
    DEEPSEEK_V2,
)


def known_architectures() -> tuple[str, ...]:
    """The architectures of all families, sorted without regard to case."""
    return tuple(sorted((name for family in FAMILIES for name in family.architectures), key=str.lower))


def is_of_family(architecture: str) -> bool:
    """Whether a family reads that architecture."""
    return any(architecture in family.architectures for family in FAMILIES)


def find_family(architectures: object, *, where: str) -> Family:
    """The family of the `architectures` of a config.json.

    Raises:
        InputRefused: it names none, several, or an unknown one.
    """
    names = architectures if isinstance(architectures, list) else [architectures]
    if len(names) == 1:
        for family in FAMILIES:
            if names[0] in family.architectures:
                return family
    found = ", ".join(str(name) for name in names) if architectures else "none"
    raise InputRefused(
        f"{where}: found architecture {found}, which is not supported; "
        f"known are {', '.join(known_architectures())}. No weights were read and nothing was written."
    )
