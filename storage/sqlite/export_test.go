// SPDX-License-Identifier: Apache-2.0

package sqlite

// Waiting is how many batches nobody has taken up.
func (s *Store) Waiting() int {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	return len(s.queue.list)
}
