"""Libraries that run engines. `registry` lists the providers; each has a folder."""
