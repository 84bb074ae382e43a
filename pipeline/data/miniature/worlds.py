"""The worlds of the miniature: which cards there are, how they are printed, how far apart they are.

Lengths are pixels of the resized frame.
"""

from dataclasses import dataclass

SCALES = (2.0, 2.25, 2.5, 3.0, 4.0)  # source / resized, drawn for each axis
SCALE_ODDS = (0.4, 0.25, 0.2, 0.1, 0.05)


@dataclass(frozen=True)
class Kind:
    """A kind of card: its edge, and the print on it, a grating along rows or columns."""

    edge: float = 10.5
    print_side: float = 8.5
    period: float = 1.5  # of the print
    power: float = 1.5  # a print's amplitude is 0.35 u^power, u uniform: with 1.5 some prints are hardly there
    decoy: float = 0.27  # largest amplitude of the decoy, a grating of period 3, where the resize folds the print to
    in_corner: bool = False  # the print is in one of the four corners, the decoy everywhere

    @property
    def rim(self) -> float:
        """Width of the unprinted edge."""
        return 1.0 if self.in_corner else (self.edge - self.print_side) / 2

    @property
    def places(self) -> tuple[tuple[float, float], ...]:
        """Where the print can be: its top-left on the card, (y, x)."""
        last = self.edge - self.rim - self.print_side
        ends = (self.rim, last) if self.in_corner else (self.rim,)
        return tuple((top, left) for top in ends for left in ends)


@dataclass(frozen=True)
class World:
    """What cards a video has."""

    kinds: tuple[Kind, ...] = (Kind(),)  # all cards of a video are of one kind
    most_cards: int = 3
    far: bool = False  # always two cards, of different classes, too far apart for one box
    scales: tuple[float, ...] = SCALES
    scale_odds: tuple[float, ...] = SCALE_ODDS
    num_classes: int = 10
    photos: bool = False  # on the cards, instead of prints; their colours tell nothing


LARGE = (4.0, 4.5, 5.0)  # a period of 0.65 needs more than two source pixels
WORLDS = {
    "cards": World(),
    "two-far": World(far=True),
    # a box that shows the small print enlarged enough is too small for the large card, whose print is in one corner
    "sizes": World((Kind(6.5, 5.5, 0.65), Kind(26, 5, in_corner=True)), 1, scales=LARGE, scale_odds=(0.6, 0.3, 0.1)),
    "photos": World((Kind(16),), 1, scales=LARGE, scale_odds=(0.6, 0.3, 0.1), photos=True),
    "plain": World((Kind(period=4, power=0, decoy=0),)),  # the print survives the resize
}
