"""The federated round: participation, local epochs, uplink, aggregation, server step."""
