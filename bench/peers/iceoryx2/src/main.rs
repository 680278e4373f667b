//! One of two processes that send messages of 64 bytes by iceoryx2, as boost/peer.cpp does by
//! Boost: peer first|second echo|copy NAME FOLDER. Both spin, and messages are copied in
//! and out of the samples. What lies in /dev/shm begins with NAME, the rest is in FOLDER.

use iceoryx2::config::Config;
use iceoryx2::port::{publisher::Publisher, subscriber::Subscriber};
use iceoryx2::prelude::*;
use std::error::Error;
use std::hint::{black_box, spin_loop};
use std::io::{stdin, BufRead};

type Message = [u8; 64];

const SLOTS: usize = 1024;

fn send(publisher: &Publisher<ipc::Service, Message, ()>, m: &Message) -> Result<(), Box<dyn Error>> {
    publisher.loan_uninit()?.write_payload(*black_box(m)).send()?;
    Ok(())
}

fn receive(subscriber: &Subscriber<ipc::Service, Message, ()>) -> Result<Message, Box<dyn Error>> {
    loop {
        if let Some(sample) = subscriber.receive()? {
            return Ok(black_box(*sample.payload()));
        }
        spin_loop();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let (first, echo) = (args[1] == "first", args[2] == "echo");
    set_log_level(LogLevel::Error);
    let mut config = Config::default();
    config.global.prefix = FileName::new(args[3].as_bytes())?;
    config.global.set_root_path(&Path::new(args[4].as_bytes())?);
    let node = NodeBuilder::new().config(&config).create::<ipc::Service>()?;
    let service = |name: &str| -> Result<_, Box<dyn Error>> {
        Ok(node
            .service_builder(&name.try_into()?)
            .publish_subscribe::<Message>()
            .max_publishers(1)
            .max_subscribers(1)
            .enable_safe_overflow(false)
            .history_size(0)
            .subscriber_max_buffer_size(SLOTS)
            .open_or_create()?)
    };
    let (there, back) = (service("there")?, service("back")?);
    let (out, into) = if first { (&there, &back) } else { (&back, &there) };
    let publisher = out
        .publisher_builder()
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
        .create()?;
    let subscriber = into.subscriber_builder().buffer_size(SLOTS).create()?;

    let mut m: Message = [0; 64];
    for line in stdin().lock().lines() {
        let n: u64 = line?.trim().parse()?;
        if !first {
            println!("ready");
        }
        for _ in 0..n {
            if first {
                send(&publisher, &m)?;
            } else {
                m = receive(&subscriber)?;
            }
            if echo && first {
                m = receive(&subscriber)?;
            } else if echo {
                send(&publisher, &m)?;
            }
        }
        println!("done");
    }
    Ok(())
}
