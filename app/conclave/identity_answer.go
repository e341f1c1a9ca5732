// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
)

// answers meet the needs of an issuer: those of a person at a terminal, or of nobody.
type answers struct {
	program    *program
	call       modules.Caller
	person     bool   // there is one
	browser    bool   // open it
	redirected string // the address at which the login ended, elsewhere
	out        string // where a request for a certificate goes
	file       []byte // the certificate for it
	steps      int
}

const (
	loginTime = 15 * time.Minute
	waitTime  = 2 * time.Minute // the longest that is waited for an issuer
)

var (
	// errHandedOver: a request is written, and the certificate for it has to come.
	errHandedOver = errors.New("the request has to be signed")
	// errLater: the issuer wants to be asked again later.
	errLater = fmt.Errorf("the issuer is not ready: %w", core.ErrUnavailable)
	errLogin = fmt.Errorf("nobody has logged in: %w", core.ErrUnavailable)
)

func (a *answers) answer(ctx context.Context, need core.Need) (core.Input, error) {
	a.steps++
	a.program.progress.at("steps of the enrolment", a.steps, 0)
	switch {
	case need.Call != nil:
		result, err := a.call(ctx, *need.Call)
		if errors.Is(err, core.ErrDenied) { // which the issuer may mend
			return core.Input{Error: err.Error()}, nil
		}
		return core.Input{Result: result}, err
	case need.Visit != nil:
		query, err := a.visit(ctx, *need.Visit)
		return core.Input{RedirectQuery: query}, err
	case need.Show != nil && a.file != nil:
		return core.Input{File: a.file}, nil
	case need.Show != nil && a.person:
		return core.Input{}, a.show(*need.Show)
	case need.Wait != nil && need.Wait.After > waitTime:
		return core.Input{}, fmt.Errorf("%w; again in %s", errLater, need.Wait.After)
	case need.Wait != nil:
		select {
		case <-time.After(need.Wait.After):
			return core.Input{}, nil
		case <-ctx.Done():
			return core.Input{}, ctx.Err()
		}
	}
	return core.Input{}, messenger.ErrPerson
}

// show hands a request for a certificate over.
func (a *answers) show(need core.ShowNeed) error {
	if err := os.WriteFile(a.out, need.File, 0o600); err != nil {
		return err
	}
	err := a.program.result(struct {
		Done string `json:"done"`
		File string `json:"file"`
		Text string `json:"text,omitempty"`
	}{"request written", a.out, need.Text}, "the request is in %s; have it signed, then: %s\n", plain(a.out), a.program.here("conclave identity import CHAIN.pem"))
	return errors.Join(errHandedOver, err)
}

// visit has somebody log in, and gives the query with which their browser comes back to this
// machine: RFC 8252 section 7.3.
func (a *answers) visit(ctx context.Context, need core.VisitNeed) (query string, err error) {
	page, err := url.Parse(need.URL)
	if err == nil && page.Scheme != "https" && page.Scheme != "http" {
		err = fmt.Errorf("the login is at %q, which is no web page: %w", need.URL, core.ErrDenied)
	}
	if err != nil {
		return "", err
	}
	back, err := url.Parse(need.RedirectURI)
	if err != nil {
		return "", err
	}
	state := page.Query().Get("state")
	if a.redirected != "" {
		u, err := url.Parse(a.redirected)
		if err != nil || !sameState(u.Query(), state) {
			return "", hint(fmt.Errorf("that is not the address at which this login ended: %w", core.ErrInvalid), // which has a code in it
				"it begins with %s and has the state of this login: log in again at the address that is printed without --redirected", need.RedirectURI)
		}
		return u.RawQuery, nil
	}
	if !a.person {
		return "", fmt.Errorf("for a login: %w", messenger.ErrPerson)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", back.Host)
	if err != nil {
		return "", hint(fmt.Errorf("the login cannot come back to %s: %w: %w", need.RedirectURI, core.ErrUnavailable, err),
			"end what listens there, or begin anew: conclave identity enroll --restart")
	}
	came := make(chan string, 1)
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != cleanPath(back) || !sameState(r.URL.Query(), state) { // some other page asked for this
			http.Error(w, "this is not the end of the login", http.StatusBadRequest)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		_, _ = fmt.Fprintln(w, "Thank you. You can close this window and go back to Conclave.")
		select {
		case came <- r.URL.RawQuery:
		default: // it came before
		}
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(end) != nil {
			_ = server.Close()
		}
		<-served
	}()
	err = a.program.result(struct {
		Visit    string `json:"visit"`
		Redirect string `json:"redirect"`
	}{need.URL, need.RedirectURI}, "log in here:\n%s\n", plain(need.URL))
	if err != nil {
		return "", err
	}
	if a.browser {
		if err := openBrowser(need.URL); err != nil {
			a.program.notice("no browser could be opened; open the address in one: %v", err)
		}
	}
	select {
	case query = <-came:
		return query, nil
	case err := <-served:
		served <- err
		return "", err
	case <-time.After(loginTime):
		return "", errLogin
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func cleanPath(u *url.URL) string {
	if u.Path == "" {
		return "/"
	}
	return u.Path
}

// sameState says whether an answer is that to our request.
func sameState(q url.Values, state string) bool {
	return state != "" && subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) == 1
}

// openBrowser starts the person's browser, and does not wait for it.
func openBrowser(address string) error {
	name, args := "xdg-open", []string{address}
	switch {
	case runtime.GOOS == "darwin":
		name = "open"
	case runtime.GOOS == "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", address}
	}
	cmd := exec.Command(name, args...)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}
