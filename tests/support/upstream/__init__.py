"""What upstream says, as facts and schemas that tests check our files against."""
