"""Several processes that train, evaluate or infer as one job, mostly one a machine."""
