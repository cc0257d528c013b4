"""Label Studio's formats, all of them: REST client, payloads, labeling config, regions, exports, clicks.

Belongs here: reading and writing what Label Studio speaks. Does not: state, models, HTTP serving.
"""
