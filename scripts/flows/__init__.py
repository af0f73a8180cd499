"""What the program does, one file a verb: builders, engines and triton_repo composed."""
