// Package wire writes the messages of the definition as REST, WebSocket and SSE have them: JSON with the fields' own names
// in the order of the definition, ids as strings, numbers as numbers, times as RFC 3339 UTC, and null for what is absent.
// (Connect's JSON is protobuf's own, with camelCase names and 64-bit numbers as strings.)
package wire

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// JSON is a message as a JSON object.
func JSON(message proto.Message) []byte {
	return appendMessage(nil, message.ProtoReflect(), "")
}

// Tagged is a message as a JSON object whose first member is its type.
func Tagged(kind string, message proto.Message) []byte {
	return appendMessage(nil, message.ProtoReflect(), kind)
}

func appendMessage(text []byte, message protoreflect.Message, kind string) []byte {
	switch known := message.Interface().(type) {
	case *timestamppb.Timestamp:
		text = append(text, '"')
		text = known.AsTime().AppendFormat(text, time.RFC3339Nano)
		return append(text, '"')
	case *structpb.Struct:
		return appendJSON(text, known.AsMap())
	}
	text = append(text, '{')
	if kind != "" {
		text = append(appendJSON(append(text, `"type":`...), kind), ',')
	}
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if i > 0 {
			text = append(text, ',')
		}
		text = append(appendJSON(text, string(field.Name())), ':')
		switch {
		case field.HasPresence() && !message.Has(field):
			text = append(text, "null"...)
		case field.IsList():
			text = append(text, '[')
			for n, list := 0, message.Get(field).List(); n < list.Len(); n++ {
				if n > 0 {
					text = append(text, ',')
				}
				text = appendValue(text, field, list.Get(n))
			}
			text = append(text, ']')
		default:
			text = appendValue(text, field, message.Get(field))
		}
	}
	return append(text, '}')
}

func appendValue(text []byte, field protoreflect.FieldDescriptor, value protoreflect.Value) []byte {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return appendMessage(text, value.Message(), "")
	case protoreflect.StringKind:
		return appendJSON(text, value.String())
	case protoreflect.BytesKind:
		return append(base64.StdEncoding.AppendEncode(append(text, '"'), value.Bytes()), '"')
	case protoreflect.BoolKind:
		return strconv.AppendBool(text, value.Bool())
	case protoreflect.DoubleKind:
		return strconv.AppendFloat(text, value.Float(), 'f', -1, 64)
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		return strconv.AppendInt(text, value.Int(), 10)
	default:
		panic(fmt.Sprintf("wire: %s is a %s, which no message of the definition had so far", field.FullName(), field.Kind()))
	}
}

func appendJSON(text []byte, value any) []byte {
	plain, err := json.Marshal(value) // also keeps < and & out of whatever shows it
	if err != nil {
		panic(err) // strings, and what was read from JSON, can be marshalled
	}
	return append(text, plain...)
}
