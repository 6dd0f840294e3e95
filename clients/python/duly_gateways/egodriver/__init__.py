"""`duly-egodriver`: a driving policy for simulators that speak the egodriver contract, such as AlpaSim and CARLA."""
