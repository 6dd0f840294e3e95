"""`duly-zenoh`: samples that are published under key expressions of Zenoh become frames, and outcomes are published."""
