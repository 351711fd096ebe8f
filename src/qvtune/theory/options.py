"""The options of the scaling experiment."""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from qvtune.options import Options

TOY_WIDTHS = [2**power for power in range(6, 15)]
BLOCK_WIDTHS = [64, 128, 256, 512, 1024]
FEWEST_WIDTHS = 3
# The size of a block's heads; a wider block has more of them.
HEAD_DIM = 32


class ScalingOptions(Options):
    """The experiment."""

    command: ClassVar[str] = "theory scaling"

    widths: list[int] = Field(TOY_WIDTHS, description="Widths of the toy layer, from small to large, parted by commas.")
    seeds: int = Field(24, ge=2, description="Toy layers at each width, each with random parts of its own.")
    block_widths: list[int] = Field(
        BLOCK_WIDTHS, description=f"Widths of the real blocks, multiples of {HEAD_DIM}, the size of a head."
    )
    block_seeds: int = Field(8, ge=2, description="Real blocks of each kind at each width.")
    blocks: bool = Field(True, description="Measure real blocks beside the toy layer.")
    optimizer: Literal["adam", "sign"] = Field(
        "adam", description="What makes the steps: Adam, or descent on the gradient's sign."
    )
    steps: int = Field(3, ge=1, le=100, description="Steps of training; each is measured.")
    seed: int = Field(0, ge=0, description="Seed of everything random; the same gives the same numbers.")

    @field_validator("widths", "block_widths", mode="before")
    @classmethod
    def _split(cls, widths: Any) -> Any:
        return widths.split(",") if isinstance(widths, str) else widths

    @field_validator("widths", "block_widths")
    @classmethod
    def _check_widths(cls, widths: list[int]) -> list[int]:
        if len(widths) < FEWEST_WIDTHS:
            raise ValueError(f"an exponent takes at least {FEWEST_WIDTHS} widths. Give more, as in 64,256,1024")
        if widths != sorted(set(widths)) or widths[0] < 1:
            raise ValueError("widths go from small to large, each once, as in 64,256,1024")
        return widths

    @field_validator("block_widths")
    @classmethod
    def _check_heads(cls, widths: list[int]) -> list[int]:
        odd = [width for width in widths if width % HEAD_DIM]
        if odd:
            raise ValueError(f"{odd[0]} is no multiple of {HEAD_DIM}, the size of a head, which stays the same")
        return widths
