//! A program on a pseudo-terminal, and what is on its screen.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions, Termios, Winsize};
use vt100::Parser;

use super::processes::{SILENT, shell_status};
use super::requirements::installed;
use super::wait::{DEADLINE, wait_for, wait_until};

/// A terminal that is standard input, output and error of a program, and its controlling terminal.
pub struct Terminal {
    child: Child,
    /// `None` after a hang-up.
    keyboard: Option<File>,
    state: Arc<(Mutex<State>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

struct State {
    screen: Parser,
    written: Vec<u8>,
    /// Rows and columns to change to after the next output.
    new_size: Option<(u16, u16)>,
    /// Bytes written when the terminal got that size, while the screen has not.
    resized_at: Option<usize>,
    /// Stop reading after the next output.
    is_closed: bool,
}

/// What is on the screen when the program has ended.
pub struct Ended {
    pub status: i32,
    pub lines: Vec<String>,
    pub cursor_is_hidden: bool,
    /// Every byte that the program wrote.
    pub written: Vec<u8>,
}

impl Terminal {
    /// Starts the command on a terminal of so many rows and columns; `None` where `setsid` is not installed.
    pub fn start(command: &Command, (rows, columns): (u16, u16)) -> Option<Self> {
        let setsid = installed("setsid")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keyboard = rustix::pty::openpt(flags).unwrap();
        rustix::pty::grantpt(&keyboard).unwrap();
        rustix::pty::unlockpt(&keyboard).unwrap();
        rustix::termios::tcsetwinsize(&keyboard, size(rows, columns)).unwrap();
        let name = rustix::pty::ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        // It becomes that of the program, and not of this process.
        let no_controlling_terminal = i32::try_from(OFlags::NOCTTY.bits()).unwrap();
        let tty = File::options().read(true).write(true).custom_flags(no_controlling_terminal).open(name).unwrap();
        // Otherwise an interrupt discards output that was not read yet, and the final screen depends on timing.
        let mut modes = rustix::termios::tcgetattr(&tty).unwrap();
        modes.local_modes |= LocalModes::NOFLSH;
        rustix::termios::tcsetattr(&tty, OptionalActions::Now, &modes).unwrap();

        let mut on_terminal = Command::new(setsid);
        on_terminal.arg("--ctty").arg(command.get_program()).args(command.get_args());
        on_terminal.current_dir(command.get_current_dir().unwrap()).env("TERM", "xterm-256color");
        for (key, value) in command.get_envs() {
            on_terminal.env(key, value.unwrap());
        }
        on_terminal.stdin(tty.try_clone().unwrap()).stdout(tty.try_clone().unwrap()).stderr(tty);
        let child = on_terminal.spawn().unwrap();
        drop(on_terminal);

        let screen = Parser::new(rows, columns, 1000);
        let state = State { screen, written: Vec::new(), new_size: None, resized_at: None, is_closed: false };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let keyboard = File::from(keyboard);
        let reader = Some(thread::spawn({
            let (from, state) = (keyboard.try_clone().unwrap(), Arc::clone(&state));
            move || show(from, &state)
        }));
        Some(Self { child, keyboard: Some(keyboard), state, reader })
    }

    /// What it does with what is typed (termios(3)).
    pub fn modes(&self) -> Termios {
        rustix::termios::tcgetattr(self.keyboard.as_ref().unwrap()).unwrap()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    pub fn type_in(&mut self, keys: &[u8]) {
        self.keyboard.as_ref().unwrap().write_all(keys).unwrap();
    }

    /// Changes the size right after an output of the program, and a smaller screen only once it draws for that size, so that
    /// nothing that was drawn for the old size is shown at the new one. Waits for that output.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.state.0.lock().unwrap().new_size = Some((rows, columns));
        wait_until("output, to resize after", || self.state.0.lock().unwrap().new_size.is_none());
    }

    /// Waits until `is_wanted` accepts the lines on the screen. It is called after each change, and at least every 50 ms,
    /// so that it can also keep the transfer moving.
    pub fn wait_for_lines(&self, mut is_wanted: impl FnMut(&[String]) -> bool) -> Vec<String> {
        const INTERVAL: Duration = Duration::from_millis(50);
        let started = Instant::now();
        loop {
            let lines = lines(&self.state.0.lock().unwrap().screen);
            if is_wanted(&lines) {
                return lines;
            }
            assert!(started.elapsed() < DEADLINE, "not as wanted: {lines:#?}");
            drop(self.state.1.wait_timeout(self.state.0.lock().unwrap(), INTERVAL).unwrap());
        }
    }

    /// Waits until this has been written.
    pub fn wait_for_output(&self, text: &str) {
        let written = || String::from_utf8_lossy(&self.state.0.lock().unwrap().written).contains(text);
        wait_until("output", written);
    }

    /// Waits for a line with this beginning, and returns the rest of it.
    pub fn wait_for_line(&self, beginning: &str) -> String {
        let rest = |lines: &[String]| lines.iter().find_map(|line| line.strip_prefix(beginning).map(str::to_owned));
        rest(&self.wait_for_lines(|lines| rest(lines).is_some())).unwrap()
    }

    /// Hangs up after the next output, as closing the window does.
    pub fn hang_up(&mut self) {
        self.state.0.lock().unwrap().is_closed = true;
        self.reader.take().unwrap().join().unwrap();
        self.keyboard = None;
    }

    /// The exit status of the program, once it has ended by itself.
    pub fn status(&mut self) -> i32 {
        shell_status(wait_for("the end of the program", || self.child.try_wait().unwrap()))
    }

    /// Waits until the program has ended by itself.
    pub fn finish(mut self) -> Ended {
        // Reading fails when no process has the terminal open any more.
        wait_until("the end of the output", || self.reader.as_ref().is_none_or(JoinHandle::is_finished));
        let status = self.status();
        let state = self.state.0.lock().unwrap();
        Ended {
            status,
            lines: lines(&state.screen),
            cursor_is_hidden: state.screen.screen().hide_cursor(),
            written: state.written.clone(),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn show(mut from: File, state: &(Mutex<State>, Condvar)) {
    let mut buffer = [0; 4096];
    // A hang-up is an error here (EIO).
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        let mut locked = state.0.lock().unwrap();
        locked.screen.process(&buffer[..bytes]);
        locked.written.extend_from_slice(&buffer[..bytes]);
        if let Some((rows, columns)) = locked.new_size {
            let resized_at = locked.resized_at.unwrap_or_else(|| {
                rustix::termios::tcsetwinsize(&from, size(rows, columns)).unwrap();
                locked.written.len()
            });
            locked.resized_at = Some(resized_at);
            if columns >= locked.screen.screen().size().1 || last_frame_fits(&locked.written[resized_at..], columns) {
                locked.screen.screen_mut().set_size(rows, columns);
                (locked.new_size, locked.resized_at) = (None, None);
            }
        }
        let is_closed = locked.is_closed;
        drop(locked);
        state.1.notify_all();
        if is_closed {
            return;
        }
    }
}

/// Whether the last whole frame is that narrow: what is before the first one is the rest of an older one, and the last one
/// may be a part.
fn last_frame_fits(output: &[u8], columns: u16) -> bool {
    let text = String::from_utf8_lossy(output);
    let frames: Vec<_> = text.split("\r\x1b[J").collect();
    frames.len() > 2 && frames[frames.len() - 2].chars().count() <= usize::from(columns)
}

/// The rows that are not empty, without the note about three seconds of silence.
fn lines(screen: &Parser) -> Vec<String> {
    let screen = screen.screen();
    let rows = screen.rows(0, screen.size().1);
    rows.map(|row| row.trim_end().to_owned()).filter(|row| !row.is_empty() && row != SILENT).collect()
}
