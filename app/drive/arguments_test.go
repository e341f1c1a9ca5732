// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/app/drive"
)

// An argument that is missing, or that cannot be read, is a bad request that names it,
// of every command.
func TestArguments(t *testing.T) {
	t.Parallel()
	instance := []string{
		`{"cmd":"init"}`,
		`{"cmd":"createConversation","conversation":"dGVh"}`,
	}
	type call struct{ line, field string }
	var calls []call
	for line := range strings.Lines(drive.Table()) {
		name, rest, _ := strings.Cut(line, " ")
		takes, _, _ := strings.Cut(rest, "->")
		arguments := strings.Split(takes, ",")
		for i, a := range arguments {
			a, _, _ = strings.Cut(strings.TrimSpace(a), " ")
			if a == "" || strings.HasSuffix(a, "?") || name == "random" {
				continue
			}
			field := strings.TrimSuffix(a, "[]")
			given := `{"cmd":"` + name + `"`
			for j, b := range arguments { // the others are there
				b, _, _ = strings.Cut(strings.TrimSpace(b), " ")
				switch list := strings.TrimSuffix(b, "[]"); {
				case i == j || strings.HasSuffix(b, "?"):
				case list != b:
					given += `,"` + list + `":[]`
				default:
					given += `,"` + b + `":"dGVh"`
				}
			}
			calls = append(calls, call{given + `}`, field}, call{given + `,"` + field + `":null}`, field})
			if field != "clientIds" && field != "ciphersuite" && field != "conversation" && !strings.HasPrefix(field, "session") {
				wrong := `"?"`
				if strings.HasSuffix(a, "[]") {
					wrong = `["","?"]`
					calls = append(calls, call{given + `,"` + field + `":[null]}`, field})
				}
				calls = append(calls, call{given + `,"` + field + `":` + wrong + `}`, field})
			}
		}
	}
	calls = append(calls,
		call{`{"cmd":"identities","conversation":"dGVh","clientIds":["me"]}`, "clientIds"},
		call{`{"cmd":"removeMembers","conversation":"dGVh","clientIds":["me"]}`, "clientIds"},
		call{`{"cmd":"init","inst":"other","clientId":"me"}`, "clientId"},
		call{`{"cmd":"epoch","conversation":"?"}`, "conversation"},
		call{`{"cmd":"addCredential","ciphersuite":"one"}`, "ciphersuite"},
		call{`{"cmd":"random"}`, "n"},
	)
	lines := instance
	for _, c := range calls {
		lines = append(lines, c.line)
	}
	replies := serve(t, drive.Options{Config: parts()}, lines...)
	if len(replies) != len(lines) || len(calls) < 60 {
		t.Fatalf("%d replies to %d requests", len(replies), len(lines))
	}
	for i, reply := range replies[len(instance):] {
		e, _ := reply["error"].(map[string]any)
		if message, _ := e["message"].(string); e["kind"] != "BadRequest" || !strings.HasPrefix(message, calls[i].field+": ") {
			shown, _ := json.Marshal(reply)
			t.Errorf("%s: %s", calls[i].line, shown)
		}
	}
}
