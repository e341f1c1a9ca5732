// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"slices"
)

// follow adds the changes of a step that comes after w, so that w says what both
// do together: what the step deletes or writes again is no longer put by w. No
// used-up secret can come back this way, and no key is put twice.
func (w *WriteSet) follow(step *WriteSet) {
	w.Puts = slices.DeleteFunc(w.Puts, func(p Record) bool {
		return slices.ContainsFunc(step.Puts, func(q Record) bool {
			return p.Kind == q.Kind && bytes.Equal(p.Key, q.Key)
		}) || slices.ContainsFunc(step.Dels, func(d RecordRange) bool {
			return p.Kind == d.Kind && bytes.HasPrefix(p.Key, d.Prefix)
		})
	})
	w.Dels = append(w.Dels, step.Dels...)
	w.Puts = append(w.Puts, step.Puts...)
	w.Retired = append(w.Retired, step.Retired...)
}
