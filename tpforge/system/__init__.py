"""What several layers do to this machine, once each: open URLs, run and end programs, link or copy files.

Nothing else of the core imports it, and it knows nothing of models, engines or servers.
"""
