//! A name server for the service under test: every name is this machine, and one that begins with `hang` is never
//! answered.

use std::net::SocketAddr;

use tokio::net::UdpSocket;

/// Longest question over UDP.
const MAX_QUESTION_BYTES: usize = 512;
const HEAD_BYTES: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];
/// A pointer to the question's name, then an address that may be kept for a second: 127.0.0.1.
const ANSWER: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1];

/// Serves until the program ends; where.
pub async fn start() -> anyhow::Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let addr = socket.local_addr()?;
    tokio::spawn(async move {
        let mut question = [0; MAX_QUESTION_BYTES];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            if let Some(answer) = answer(&question[..length]) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    Ok(addr)
}

fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let name = question.get(HEAD_BYTES..)?;
    // The first label stands behind its length.
    if name.get(1..)?.starts_with(b"hang") {
        return None;
    }
    let name_bytes = name.iter().position(|byte| *byte == 0)? + 1;
    let known = name.get(name_bytes..name_bytes + 2)? == TYPE_A;
    let mut answer = question.get(..HEAD_BYTES + name_bytes + 4)?.to_vec();
    // An answer, recursion available, no error; one question, perhaps one answer, and nothing that was said besides.
    answer[2..HEAD_BYTES].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(known), 0, 0, 0, 0]);
    if known {
        answer.extend(ANSWER);
    }
    Some(answer)
}
