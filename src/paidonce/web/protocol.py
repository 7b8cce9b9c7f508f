"""uvicorn's faster HTTP protocol, with what the slower one bounds and this one doesn't.

Its parser collects a header, a trailer or the size of a chunk for as long as the client goes on sending it, and puts
trailers among the headers of a request that is being answered.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Twice what a whole head may have (`strict.LARGEST_HEAD_BYTES`): one that ends in time hears what is wrong with it.
# What comes in one read with the end of something else is not counted, so it is that much more at most.
LARGEST_UNFINISHED_BYTES = 64 * 1024


class Protocol(HttpToolsProtocol):
    """One connection."""

    # Bytes that came in since the last piece of a request was complete.
    _unfinished = 0
    _in_head = False

    def data_received(self, data: bytes) -> None:
        """Parse what came in, and end a connection that sends something without an end."""
        self._unfinished += len(data)
        super().data_received(data)
        if self._unfinished > LARGEST_UNFINISHED_BYTES and not self.transport.is_closing():
            self.send_400_response("A part of this request is too long.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header. A trailer is none: whoever stands before us and vouches for some headers has not seen it."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete, and the application is called."""
        self._in_head = False
        self._unfinished = 0
        target = self.url
        if target.startswith(b"/"):
            super().on_headers_complete()
            return
        # What is meant for a proxy is told as it was sent, and refused by the application: the parser would leave out
        # the other server's name. The call begins only after this.
        self.url = b"/"
        super().on_headers_complete()
        self.scope["path"] = target.decode("ascii", "replace")

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._unfinished = 0
        super().on_message_complete()
