package joblog

// Unpack returns the bytes of one chunk, for a reader that has SQL of its own (one statement for many logs). size is the
// row's byte_count; anything else, or more than MaxChunk, is an error.
func Unpack(data []byte, size int) ([]byte, error) { return unpack(data, size) }
