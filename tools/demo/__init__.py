"""``make demo``: a server and several devices as separate processes, from enrolment to the int8 model."""
