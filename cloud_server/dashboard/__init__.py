"""The operator's page: server-rendered, no build step, nothing from another host.

Each page is a function in ``facts`` that returns plain values, a template that shows them, and a route of a few lines;
``Accept: application/json``, or ``.json`` after the path, answers the same values as JSON.
"""
