// Package joblog is how the log of a job is stored: what a runner appends and a gateway reads.
//
// The log of one attempt is a sequence of bytes, any bytes. It lies in ci_logs in chunks of at most 64 KiB, numbered
// from 0 without gaps and compressed, each with its byte offset and its count of newlines. Chunks are appended in
// order, so what a reader sees is always a prefix: who has read to offset n goes on at n and misses nothing.
//
// An append names job and claim token in the same statement. A writer that has lost its claim appends nothing more;
// a chunk that was sent twice is stored once.
package joblog
