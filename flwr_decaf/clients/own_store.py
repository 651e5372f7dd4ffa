"""The store of posts that a node uses, if the run has one: only the node's own machine names it.

    --node-config 'partition-id=0 num-partitions=4 posts-store="s3://bucket/folder"'

For nodes on its machine, ``flwr-decaf run`` sets the environment variable ``STORE_VARIABLE``
instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from flwr_decaf.messages.mail import Mail
from flwr_decaf.messages.post_store import PostStore
from flwr_decaf.messages.shared_posts import STORE_VARIABLE

POSTS_STORE = "posts-store"


def root_of_store(node_config: Mapping[str, object]) -> str:
    """Return the URL or path of a node's store; empty if it has none."""
    return str(node_config.get(POSTS_STORE, os.environ.get(STORE_VARIABLE, "")))


def store_of(node_config: Mapping[str, object], mail: Mail) -> PostStore | None:
    """Open the store for the posts of a run; None if they travel in messages.

    Raises
    ------
    ValueError
        If the run has a store and the node has none, or it cannot be opened.
    """
    if not mail.box:
        return None
    root = root_of_store(node_config)
    if not root:
        raise ValueError(
            f"{POSTS_STORE} must be in the node-config, since the run has posts.store; it is not "
            "there; add it to --node-config"
        )
    return PostStore(root, mail.box, mail.store_timeout)
