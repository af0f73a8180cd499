"""What the program does, one file per verb: builders, engines and triton_repo composed."""
