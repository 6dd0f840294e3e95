"""What runs inside the peers' own environments, found there by PYTHONPATH; it imports nothing else of this project."""

from pathlib import Path

INSIDE = Path(__file__).parent
