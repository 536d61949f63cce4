"""Full-catalogue ranking, exact metrics under ties, baselines and significance."""
