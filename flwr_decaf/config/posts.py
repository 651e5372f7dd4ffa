"""Options of posts: how they are compressed, where they are stored, and who can read them."""

from __future__ import annotations

from dataclasses import dataclass

from flwr_decaf.checks import Check, above, is_root, one_of, positive_share
from flwr_decaf.config.options import Options
from flwr_decaf.config.setting import setting
from flwr_decaf.registries import POST_DTYPES, POST_ENCRYPTION


@dataclass(frozen=True)
class Posts(Options):
    """The format in which posts are exchanged.

    Parameters
    ----------
    dtype : str
        How posts are quantized, one of ``registries.POST_DTYPES``; by default "fp32": tensors
        are posted in the dtypes that they have.
    store : str
        Store of posts of the ServerApp, a URL of fsspec or an absolute path; by default "": posts
        are in the messages. Each node needs ``posts-store`` in its node-config.
    store_timeout : float
        Seconds to wait for the store in each message; by default 300.
    encryption : str
        Whether only neighbours can read a node's posts, "none" or "x25519"; by default "none".
    disclose_adapters : bool
        Whether nodes that encrypt their posts send their final models nevertheless; by default
        False. Each node needs ``posts-disclose-adapter=true`` in its node-config.
    energy : float
        Share of the energy of each product, the sum of its squared singular values, that a post
        holds, in the fewest components; by default 1.0: all components. The others stay with the
        node, see ``rules.energy``.
    """

    dtype: str = setting(
        "fp32",
        "How posts are quantized: int8 has a scale for each row; fp32 posts tensors as they are.",
        one_of(POST_DTYPES),
    )
    store: str = setting(
        "",
        "Store through which posts travel instead of messages: a URL such as s3://bucket/folder, "
        "or an absolute path; each node needs a posts-store.",
        Check(
            "be a URL without user, password and query, an absolute path, or empty",
            is_root,
            "give credentials to the store's own package, e.g. in its environment variables",
        ),
    )
    store_timeout: float = setting(
        300.0,
        "Seconds to wait for the store, for all posts of a message together.",
        above(0, "the time that the largest post needs on the slowest connection"),
    )
    encryption: str = setting(
        "none",
        "Whether nodes encrypt posts, so that only their neighbours can read them; each node needs "
        "a posts-key.",
        one_of(POST_ENCRYPTION),
    )
    disclose_adapters: bool = setting(
        False,
        "Whether nodes that encrypt posts send their final adapters without encryption; each node "
        "needs posts-disclose-adapter=true.",
    )
    energy: float = setting(
        1.0,
        "Share of the squared singular values of each product B A that a post holds, in the fewest "
        "components (decaf); 1 posts all components.",
        positive_share("1 posts all components, 0.99 those that hold 99 %"),
    )

    @property
    def encrypted(self) -> bool:
        """Whether only a node's neighbours can read its posts."""
        return self.encryption != "none"

    @property
    def collectable(self) -> bool:
        """Whether nodes send their final models."""
        return not self.encrypted or self.disclose_adapters
