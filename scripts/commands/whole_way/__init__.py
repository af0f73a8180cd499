"""Commands of several stages in one."""
