// SPDX-License-Identifier: Apache-2.0

package record_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

const (
	counter record.Kind = iota + 1
	letter
)

func ExampleWriteSet_Follow() {
	var ws, step record.WriteSet
	ws.Put(counter, nil, []byte{1})
	ws.Put(letter, []byte("a"), []byte("used up by the next step"))
	step.Put(counter, nil, []byte{2})
	step.Del(letter, []byte("a"))

	ws.Follow(&step)
	fmt.Println("delete", ws.Dels)
	fmt.Println("then put", ws.Puts)
	// Output:
	// delete [{2 [97]}]
	// then put [Record(1, , 1 bytes)]
}

// What follows decides, by kind and by key: a used-up secret does not come back, and a
// record that it does not concern stays.
func TestFollow(t *testing.T) {
	t.Parallel()
	one, two, three := core.NewSecret([]byte("one")), core.NewSecret([]byte("two")), core.NewSecret([]byte("three"))
	var ws, step record.WriteSet
	ws.Del(letter, []byte("x"))
	ws.Put(counter, []byte("ab"), []byte("stays: another kind"))
	ws.Put(counter, []byte("b"), []byte("stays too"))
	ws.Put(letter, []byte("ab"), []byte("deleted"))
	ws.Put(letter, []byte("b"), []byte("replaced"))
	ws.Put(letter, []byte("c"), []byte("stays"))
	ws.Retire(one)
	step.Del(letter, []byte("a"))
	step.Put(letter, []byte("b"), []byte("new"))
	step.Put(letter, []byte("a"), []byte("put after the deletion"))
	step.Retire(two, three)
	ws.Follow(&step)

	var want record.WriteSet
	want.Del(letter, []byte("x"))
	want.Del(letter, []byte("a"))
	want.Put(counter, []byte("ab"), []byte("stays: another kind"))
	want.Put(counter, []byte("b"), []byte("stays too"))
	want.Put(letter, []byte("c"), []byte("stays"))
	want.Put(letter, []byte("b"), []byte("new"))
	want.Put(letter, []byte("a"), []byte("put after the deletion"))
	if !reflect.DeepEqual(ws.Dels, want.Dels) || !reflect.DeepEqual(ws.Puts, want.Puts) || len(ws.Retired) != 3 {
		t.Errorf("delete %v, put %v, %d retired; want %v, %v, 3", ws.Dels, ws.Puts, len(ws.Retired), want.Dels, want.Puts)
	}
}

// One asks for one record, and what is not there is no error.
func TestOne(t *testing.T) {
	t.Parallel()
	var asked []record.Query
	answer, failure := [][]record.Record{{{Kind: letter, Key: []byte("a"), Value: []byte("value")}}}, error(nil)
	fetch := record.Fetch(func(_ context.Context, queries []record.Query) ([][]record.Record, error) {
		asked = queries
		return answer, failure
	})
	value, err := fetch.One(t.Context(), letter, []byte("a"))
	if string(value) != "value" || err != nil || !reflect.DeepEqual(asked, []record.Query{{Kind: letter, Prefix: []byte("a"), Limit: 1}}) {
		t.Errorf("%q, %v; asked %v", value, err, asked)
	}
	for _, answer = range [][][]record.Record{nil, {}, {nil}} {
		if value, err := fetch.One(t.Context(), letter, []byte("a")); value != nil || err != nil {
			t.Errorf("%v: %q, %v", answer, value, err)
		}
	}
	failure = core.ErrUnavailable
	if _, err := fetch.One(t.Context(), letter, nil); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("the store is away: %v", err)
	}
}

// No value is shown, whatever a record or a write set is formatted with.
func TestValuesAreNotPrinted(t *testing.T) {
	t.Parallel()
	var ws record.WriteSet
	ws.Put(letter, []byte("key"), []byte("Kerckhoffs"))
	ws.Retire(core.NewSecret([]byte("Kerckhoffs")))
	for _, v := range []any{ws.Puts[0], &ws.Puts[0], ws.Puts, ws, &ws, struct{ Hidden any }{ws.Puts[0]}} {
		var text strings.Builder
		for _, verb := range "vsqxXdcteU" {
			for _, flags := range []string{"", "+", "#", " "} {
				fmt.Fprintf(&text, "%"+flags+string(verb)+"\n", v)
			}
		}
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(encoded)
		for _, look := range []string{"Kerckhoffs", "4b6572636b", "4B6572636B", "4b 65 72", "4B 65 72", "75 101 114", "S2VyY2", "0x4b, 0x65"} {
			if strings.Contains(text.String(), look) {
				t.Errorf("a %T shows %q", v, look)
			}
		}
		if !strings.Contains(text.String(), "10 bytes") {
			t.Errorf("a %T does not say how long the value is: %s", v, text.String())
		}
	}
}
