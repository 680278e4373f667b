package list_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
)

// longest is the length of the longest marked text.
const longest = 1 + 25*97

// markedItems are a counter and items that hold marked values.
func markedItems() []any {
	room := strings.Repeat("\x00", longest)
	return []any{0, room, room, room, room}
}

// marked returns a value that shows whether it is whole: text and bytes are of
// one letter, which says how long; floats are halves.
func marked(r *rand.Rand) any {
	k := r.IntN(26)
	switch r.IntN(8) {
	case 0:
		return int64(k) * 0x0101010101010101
	case 1:
		return float64(k) + 0.5
	case 2:
		return nil
	case 3:
		return k%2 == 0
	case 4:
		return bytes.Repeat([]byte{'A' + byte(k)}, 1+97*k)
	}
	return strings.Repeat(string(rune('a'+k)), 1+97*k)
}

// unbroken tells whether v is a value that marked made, or the empty text that an
// item has at first.
func unbroken(v any) bool {
	switch v := v.(type) {
	case nil, bool:
		return true
	case int64:
		return v%0x0101010101010101 == 0 && v>>56 < 26
	case float64:
		return v >= 0.5 && v <= 25.5 && v-0.5 == float64(int(v))
	case string:
		return v == "" || v[0] >= 'a' && v[0] <= 'z' && v == strings.Repeat(v[:1], 1+97*int(v[0]-'a'))
	case []byte:
		return len(v) > 0 && v[0] >= 'A' && v[0] <= 'Z' && bytes.Equal(v, bytes.Repeat(v[:1], 1+97*int(v[0]-'A')))
	}
	return false
}
