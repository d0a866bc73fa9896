"""The kinds of the group tidegate.dev as pydantic models; the CRDs and the reference documentation come from them."""
