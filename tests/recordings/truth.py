"""What the recordings in this folder hold, before any tool wrote it."""

import numpy as np

_y, _x = np.mgrid[:24, :32]
GRAY = (_x * 6 + _y * 2).astype(np.uint8)
"""[24, 32]: smooth, and not the same when turned."""
COLOUR = np.dstack([GRAY, 255 - GRAY, (_y * 8).astype(np.uint8)])
"""[24, 32, 3], RGB."""
FEW = (COLOUR // 64 * 64).astype(np.uint8)
"""[24, 32, 3]: as many colours as a palette holds."""
BLACK_WHITE = np.where(GRAY > 127, 255, 0).astype(np.uint8)
SIXTEEN = (GRAY // 17 * 17).astype(np.uint8)
"""Grays that four bits can hold."""
PICTURES = [COLOUR, COLOUR[:, ::-1].copy(), COLOUR[::-1].copy()]
"""Three pictures that differ."""
DEPTH = (500 + _x * 210 + _y * 37).astype(np.uint16)
"""[24, 32]: millimetres, in 16 bits."""
DEEP = np.dstack([DEPTH, DEPTH[::-1], DEPTH // 3])
"""[24, 32, 3], RGB in 16 bits."""
RATE_HZ = 16_000
SOUND = (np.sin(np.arange(1100) * 0.05) * 9000).astype("<i2")
"""Two chunks of 512 samples, and a rest."""
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)
