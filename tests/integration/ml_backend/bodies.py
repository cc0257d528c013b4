"""JSON bodies near to those of Label Studio, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.support.harness import GOOD, POLYGONS

KEYS = st.sampled_from(
    ["tasks", "project", "label_config", "schema", "params", "context", "result", "extra_params", "id", "data", "image",
     "action", "annotation", "value", "text", "type", "prompt", "prompts", "event"]
) | st.text(max_size=4)  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        [POLYGONS, "<View/>", GOOD["image"], "/data/upload/1/a.png", "textarea", "PROJECT_UPDATED", "\ud800"]
    )
)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=14
)
TASKS = st.lists(JSON | st.fixed_dictionaries({"id": JSON, "data": JSON}), max_size=4)
BODIES = JSON | st.fixed_dictionaries(
    {"tasks": TASKS | JSON, "label_config": st.just(POLYGONS) | JSON, "project": JSON, "params": JSON}
)
