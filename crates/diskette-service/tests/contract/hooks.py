"""What schemathesis does not know by itself: the media type of tus."""

import schemathesis

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
