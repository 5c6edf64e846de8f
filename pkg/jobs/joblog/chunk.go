package joblog

import (
	_ "embed"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// MaxChunk is how many bytes of log one chunk holds at most, before compression.
const MaxChunk = 64 << 10

var (
	//go:embed queries/append.sql
	appendSQL string
	//go:embed queries/read.sql
	readSQL string
)

// Both may be used by several goroutines at once; their options are constants and cannot be wrong.
var (
	encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	decoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxChunk))
)

func pack(p []byte) []byte { return encoder.EncodeAll(p, nil) }

// Unpack returns the bytes of one chunk, for a reader that has SQL of its own. size is the row's byte_count; anything
// else, or more than MaxChunk, is an error.
func Unpack(data []byte, size int) ([]byte, error) {
	p, err := decoder.DecodeAll(data, make([]byte, 0, min(max(size, 0), MaxChunk)))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if len(p) != size {
		return nil, fmt.Errorf("decompress: %d bytes, want %d", len(p), size)
	}
	return p, nil
}
