// SPDX-License-Identifier: Apache-2.0

package vlbytes_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

func Example() {
	b := vlbytes.Append(nil, []byte("hi"))
	b = vlbytes.AppendVector(b, func(b []byte) []byte {
		return vlbytes.Append(vlbytes.Append(b, []byte("a")), []byte("b"))
	})
	fmt.Printf("%x\n", b)

	s := cryptobyte.String(b)
	var first, second cryptobyte.String
	fmt.Println(vlbytes.Read(&s, &first) && vlbytes.Read(&s, &second) && s.Empty(), string(first), len(second))
	// Output:
	// 0268690401610162
	// true hi 4
}

// COD-1: the official vectors give headers and the lengths they mean.
func TestVectors(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(coretest.Shared(t, "vectors", "mls", "deserialization.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Header string `json:"vlbytes_header"`
		Length int    `json:"length"`
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range vectors {
		header, err := hex.DecodeString(v.Header)
		if err != nil {
			t.Fatal(err)
		}
		if got := vlbytes.AppendLength(nil, v.Length); !bytes.Equal(got, header) {
			t.Errorf("AppendLength(%d) = %x, want %s", v.Length, got, v.Header)
		}
		s := cryptobyte.String(header)
		if n, ok := vlbytes.ReadLength(&s); !ok || n != v.Length || !s.Empty() {
			t.Errorf("ReadLength(%s) = %d, want %d", v.Header, n, v.Length)
		}
		if v.Length > 1<<24 {
			continue // the length alone is checked; the content would be half a gigabyte
		}
		s = cryptobyte.String(append(header, make([]byte, v.Length)...))
		var out cryptobyte.String
		if !vlbytes.Read(&s, &out) || len(out) != v.Length || !s.Empty() {
			t.Errorf("header %s: read %d bytes, want %d", v.Header, len(out), v.Length)
		}
	}
}

// COD-1, COD-2, COD-7, mls-go/lengths, tls_codec#2414: wrong prefixes, lengths that are not minimal, and lengths
// without the bytes are refused and leave the string where it was.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, header string
		after        int // bytes that follow: enough of them, unless their lack is the point
	}{
		{"nothing", "", 0},
		{"prefix 11", "c0", 1 << 15},
		{"prefix 11, all ones", "ffffffff", 1 << 15},
		{"prefix 11, eight bytes", "c000000000004000", 1 << 15},
		{"0 in two bytes", "4000", 1 << 15},
		{"63 in two bytes", "403f", 1 << 15},
		{"63 in four bytes", "8000003f", 1 << 15},
		{"64 in four bytes", "80000040", 1 << 15},
		{"16383 in four bytes", "80003fff", 1 << 15},
		{"half of two bytes", "40", 0},
		{"three of four bytes", "800040", 0},
		{"one byte missing", "3f", 62},
		{"1 GiB over ten bytes", "bfffffff", 10},
	} {
		in := append(mustHex(t, c.header), make([]byte, c.after)...)
		s, out := cryptobyte.String(in), cryptobyte.String("before")
		own := []byte("before")
		if vlbytes.Read(&s, &out) || vlbytes.ReadBytes(&s, &own) {
			t.Errorf("%s: accepted", c.name)
		}
		if len(s) != len(in) || string(out) != "before" || string(own) != "before" {
			t.Errorf("%s: a refused read changed its arguments", c.name)
		}
	}
}

func TestLengthAllocatesNothing(t *testing.T) {
	in := append(mustHex(t, "bfffffff"), make([]byte, 10)...)
	allocs := testing.AllocsPerRun(100, func() {
		s := cryptobyte.String(in)
		var own []byte
		if vlbytes.ReadBytes(&s, &own) {
			t.Error("accepted")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// COD-3, openmls#2147: the shortest form at each boundary, also when nested.
func TestBoundaries(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n      int
		header string
	}{
		{0, "00"}, {1, "01"}, {0x3e, "3e"}, {0x3f, "3f"}, {0x40, "4040"}, {0x41, "4041"},
		{0x3ffe, "7ffe"}, {0x3fff, "7fff"}, {0x4000, "80004000"}, {0x4001, "80004001"},
	} {
		content := bytes.Repeat([]byte{0xa5}, c.n)
		want := append(mustHex(t, c.header), content...)
		flat := vlbytes.Append(nil, content)
		if !bytes.Equal(flat, want) {
			t.Errorf("Append of %#x bytes begins %x", c.n, flat[:min(4, len(flat))])
		}
		if vlbytes.Size(c.n) != len(want) {
			t.Errorf("Size(%#x) = %d, want %d", c.n, vlbytes.Size(c.n), len(want))
		}
		vector := vlbytes.AppendVector([]byte("x"), func(b []byte) []byte { return append(b, content...) })
		if !bytes.Equal(vector[1:], want) || vector[0] != 'x' {
			t.Errorf("AppendVector of %#x bytes begins %x", c.n, vector[:min(5, len(vector))])
		}
		nested := vlbytes.AppendVector(nil, func(b []byte) []byte {
			return vlbytes.AppendVector(b, func(b []byte) []byte { return append(b, content...) })
		})
		if !bytes.Equal(nested, vlbytes.Append(nil, want)) {
			t.Errorf("nested vector of %#x bytes begins %x", c.n, nested[:min(8, len(nested))])
		}
		s := cryptobyte.String(nested)
		var outer cryptobyte.String
		var inner []byte
		if !vlbytes.Read(&s, &outer) || !s.Empty() || !vlbytes.ReadBytes(&outer, &inner) || !outer.Empty() || !bytes.Equal(inner, content) {
			t.Errorf("nested vector of %#x bytes does not read back", c.n)
		}
	}
}

// COD-2: nobody can ask for a length that cannot be encoded.
func TestTooLongPanics(t *testing.T) {
	t.Parallel()
	if got := vlbytes.AppendLength(nil, vlbytes.MaxLength); !bytes.Equal(got, mustHex(t, "bfffffff")) {
		t.Errorf("MaxLength is written %x", got)
	}
	for _, n := range []int{-1, vlbytes.MaxLength + 1} {
		for name, f := range map[string]func(){
			"AppendLength": func() { vlbytes.AppendLength(nil, n) },
			"Size":         func() { vlbytes.Size(n) },
		} {
			func() {
				defer func() {
					if r, ok := recover().(vlbytes.LengthError); !ok || int(r) != n {
						t.Errorf("%s(%d) did not panic", name, n)
					}
				}()
				f()
			}()
		}
	}
}

func TestReadBytesCopies(t *testing.T) {
	t.Parallel()
	in := []byte{2, 'h', 'i'}
	s := cryptobyte.String(in)
	var own []byte
	if !vlbytes.ReadBytes(&s, &own) {
		t.Fatal("refused")
	}
	in[1] = 'x'
	if string(own) != "hi" {
		t.Error("ReadBytes shares the memory of its input")
	}
}

func FuzzRead(f *testing.F) {
	for _, header := range []string{"00", "0161", "3f", "4040", "403f", "80004000", "80003fff", "c0", "bfffffff"} {
		f.Add(mustHex(f, header))
	}
	for _, n := range []int{0x3f, 0x40, 0x3fff, 0x4000} {
		f.Add(vlbytes.Append(nil, vlbytes.Append(nil, make([]byte, n))))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s := cryptobyte.String(in)
		var again []byte
		for !s.Empty() {
			var v cryptobyte.String
			if !vlbytes.Read(&s, &v) {
				break
			}
			direct := vlbytes.Append(again, v)
			again = vlbytes.AppendVector(again, func(b []byte) []byte { return append(b, v...) })
			if !bytes.Equal(direct, again) {
				t.Fatal("Append and AppendVector differ")
			}
		}
		if !bytes.Equal(again, in[:len(in)-len(s)]) {
			t.Fatalf("%x was read and written back as %x", in[:len(in)-len(s)], again)
		}
	})
}

func mustHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
