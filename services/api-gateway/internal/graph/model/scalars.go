package model

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Invalid is what is wrong with a value that cannot be read; the path of the error it is wrapped in ends with its name.
type Invalid string

// Error says what to give instead.
func (i Invalid) Error() string { return string(i) }

// MarshalID writes an id.
func MarshalID(id string) graphql.Marshaler { return graphql.MarshalString(id) }

// UnmarshalID reads an id: a string, or a whole number, as GraphQL has it.
func UnmarshalID(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case json.Number:
		return v.String(), nil // what is no id will not be found
	}
	return "", Invalid("give an id as a string")
}

// MarshalInt writes a number.
func MarshalInt(n int32) graphql.Marshaler { return MarshalLong(int64(n)) }

// UnmarshalInt reads a whole number.
func UnmarshalInt(value any) (int32, error) {
	n, err := whole(value, 32)
	return int32(n), err
}

// MarshalLong writes a number.
func MarshalLong(n int64) graphql.Marshaler {
	return graphql.WriterFunc(func(w io.Writer) { _, _ = io.WriteString(w, strconv.FormatInt(n, 10)) })
}

// UnmarshalLong reads a whole number.
func UnmarshalLong(value any) (int64, error) { return whole(value, 64) }

// whole reads a number from a query's text (int64) or from a variable.
func whole(value any, bits int) (int64, error) {
	var text string
	switch v := value.(type) {
	case int64:
		text = strconv.FormatInt(v, 10)
	case json.Number:
		text = v.String()
	}
	n, err := strconv.ParseInt(text, 10, bits)
	if err != nil {
		return 0, Invalid("give a whole number of at most " + strconv.Itoa(bits) + " bits")
	}
	return n, nil
}

// MarshalTime writes RFC 3339, UTC.
func MarshalTime(t *timestamppb.Timestamp) graphql.Marshaler {
	if t == nil {
		return graphql.Null
	}
	return graphql.MarshalString(t.AsTime().Format(time.RFC3339Nano))
}

var errNoArgument = errors.New("no argument has this type")

// UnmarshalTime is there because the generator wants it.
func UnmarshalTime(any) (*timestamppb.Timestamp, error) { return nil, errNoArgument }

// MarshalBase64 writes bytes.
func MarshalBase64(data []byte) graphql.Marshaler {
	return graphql.MarshalString(base64.StdEncoding.EncodeToString(data))
}

// UnmarshalBase64 is there because the generator wants it.
func UnmarshalBase64(any) ([]byte, error) { return nil, errNoArgument }
