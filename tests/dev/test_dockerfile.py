from dev.cluster.dockerfile import find_needed, find_sources

TWO_TARGETS = """
# comment
ARG BASE=debian
FROM ${BASE} AS packages
COPY one/requirements.txt \\
     /tmp/
RUN install

FROM ${BASE} AS agent
COPY --from=packages /opt /opt
COPY --chown=1:1 one/package two/helper.py /srv/
RUN --mount=type=bind,source=one/scripts,target=/scripts run
RUN --mount=type=bind,from=packages,source=/opt,target=/o run

FROM packages AS triton
copy ["three/a file", "/srv/"]
ADD https://example.com/archive /srv/
"""


def test_a_target_depends_on_its_own_stages_only():
    agent = find_needed(TWO_TARGETS, "agent")
    assert agent[0] == "ARG BASE=debian"
    assert not [line for line in agent if "three" in line]
    triton = find_needed(TWO_TARGETS, "triton")
    assert not [line for line in triton if "two/helper.py" in line]
    assert [line for line in triton if "requirements.txt" in line]


def test_without_a_target_the_last_stage_is_built():
    assert find_needed(TWO_TARGETS) == find_needed(TWO_TARGETS, "triton")


def test_sources_are_what_the_instructions_read_from_the_context():
    assert find_sources(find_needed(TWO_TARGETS, "agent")) == [
        "one/requirements.txt",
        "one/package",
        "two/helper.py",
        "one/scripts",
    ]
    assert find_sources(find_needed(TWO_TARGETS, "triton")) == ["one/requirements.txt", "three/a file"]


def test_a_path_with_a_variable_stands_for_the_whole_context():
    assert find_sources(["COPY ${NAME}/x /srv"]) == ["."]
    assert find_sources(["COPY . /srv"]) == ["."]
