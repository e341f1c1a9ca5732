// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
)

// The clock is that of the answer, whatever else the answer says; without an answer
// or a date it is not known.
func TestClock(t *testing.T) {
	t.Parallel()
	want := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	date := []string{want.Format(http.TimeFormat)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = date
		w.WriteHeader(http.StatusUnauthorized)
	}))
	c, err := delivery.Dial(server.URL, delivery.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if got, err := c.Clock(t.Context()); err != nil || !got.Equal(want) {
		t.Errorf("%v, %v", got, err)
	}
	date = nil
	if _, err := c.Clock(t.Context()); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("no date: %v", err)
	}
	server.Close()
	if _, err := c.Clock(t.Context()); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("no server: %v", err)
	}
}
