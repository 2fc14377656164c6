"""Programs written for one trajectory, run on lanes of many, number by number."""
