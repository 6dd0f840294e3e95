"""`duly-openpi`: a policy server to which clients of openpi connect as they are."""
